"""What can be wrong with targets and images: faults, each with the rows it is about and what to do."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.data.folds import NO_FOLD, is_scored
from pipeline.data.labels import Labels
from pipeline.data.leaks import TEST
from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID, ROW_PREDICTION
from pipeline.settings import Settings
from toolkit.audit.scan import Look
from toolkit.errors import listed

DEVIATIONS = 3.5  # modified z-score beyond which a value is an outlier (Iglewicz and Hoaglin, 1993)
SIDE, SHAPE = 4.0, 3.0  # and how many times the median side, and ratio of sides, it must be at least

DARK = 0.25  # where even the brightest pixel is darker, images are hardly seen


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        problem: what sort of thing; faults of one sort are shown together.
        row: the id of the row, or the file.
        detail: what is wrong with it.
        fatal: training, predicting or submitting would fail on it or be wrong.
    """

    problem: str
    row: str
    detail: str
    fatal: bool = True


def target_faults(train: pd.DataFrame, test: pd.DataFrame, labels: Labels, n_folds: int) -> Iterator[Fault]:
    """Equal target columns, classes that cannot be in every fold, labels of test rows that nothing trains on.

    Args:
        train, test: rows; a test table seldom has targets.
        n_folds: how many there are, or are going to be.
    """
    there = [column for column in labels.targets if column in train]
    for first, second in itertools.combinations(there, 2):
        if train[first].notna().any() and train[first].equals(train[second]):
            detail = "these targets are the same in every row; drop one from target_columns in competition.yaml"
            yield Fault("equal targets", f"{first}, {second}", detail, fatal=False)
    for column in [column for column in there if column in labels.named]:
        whole = _by_label(train, labels, column)
        yield from _rare_classes(whole[is_scored(whole)], column, n_folds)
        if column in test:
            asked = _by_label(test, labels, column)
            unseen = asked[asked[column].notna() & ~asked[column].isin(whole[column])]
            if len(unseen):
                detail = (
                    f"'{column}' of {len(unseen)} test rows is {listed(unseen[column].unique(), 5)}, which no training "
                    "row has and nothing can predict; find such rows, or leave the column out of test_rows in tables.py"
                )
                yield Fault("unseen labels", listed(unseen[ROW_ID]), detail, fatal=False)


def number_faults(train: pd.DataFrame, labels: Labels, heads: Iterable[Head]) -> Iterator[Fault]:
    """What is no number in a column of numbers, and numbers outside the limits of their head."""
    limits = {head.name: head.limits for head in heads if head.limits is not None}
    for column in [column for column in labels.targets if column in train]:
        values = pd.to_numeric(train[column], errors="coerce")
        if column not in labels.named:
            strange = train[train[column].notna() & ~np.isfinite(values)]
            for name, cell in zip(strange[ROW_ID], strange[column], strict=True):
                yield Fault("no number", str(name), f"'{cell}' of '{column}' is no finite number")
        if column in limits:
            least, most = limits[column]
            outside = (values < least) | (values > most)
            for name, cell in zip(train.loc[outside, ROW_ID], train.loc[outside, column], strict=True):
                detail = f"{cell} of '{column}' is outside its limits, {least:g} to {most:g}; correct the row, or them"
                yield Fault("outside the limits", str(name), detail)


def _by_label(rows: pd.DataFrame, labels: Labels, column: str) -> pd.DataFrame:
    """The rows, one for each label in the column."""
    cells = labels.cells(rows, column)
    return rows.loc[cells.index].assign(**{column: cells})


def _rare_classes(rows: pd.DataFrame, column: str, n_folds: int) -> Iterator[Fault]:
    whole = rows[rows[column].notna()]
    unit = ROW_GROUP if ROW_GROUP in rows else ROW_ID  # what a fold holds out as one
    counts = whole.groupby(whole[column].astype(str))[unit].nunique().sort_values(kind="stable")
    rare = counts[counts < n_folds]
    if rare.empty or len(counts) < 2:
        return
    things = "groups" if unit == ROW_GROUP else "rows"
    single = int((rare == 1).sum())
    alone = f"; the {single} with one only are never trained on where they are held out" if single else ""
    few = listed((f"{name}: {count}" for name, count in rare.items()), 5)
    detail = (
        f"{len(rare)} of {len(counts)} classes of '{column}' have fewer {things} than the {n_folds} folds ({few}), so "
        f"some folds hold out none of them{alone}; add rows, merge classes in tables.py, or make fewer folds"
    )
    yield Fault("rare classes", listed(whole[ROW_ID][whole[column].astype(str).isin(rare.index)]), detail, fatal=False)


def image_faults(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    """Images that cannot be read, and a mixture of kinds of images that cannot be stacked or looks like a mistake.

    Args:
        rows: of `leaks.all_rows`.
        looks: what `scan` saw of their images, in the same order.
    """
    ids = rows[ROW_ID].astype(str).to_numpy()
    yield from _unreadable(rows, looks)
    for name, values, remedy in (
        ("value types", [seen.dtype for seen in looks], "set image.reader.params.as_float to true"),
        ("channels", [seen.channels for seen in looks], "set image.reader.params.channels to one number for all"),
    ):
        found = _sorted_out(ids, values)
        if len(found) > 1:
            for value, names in found.items():
                yield Fault(f"mixed {name}", listed(names), f"{len(names)} images are read as {value}; {remedy}")
    forms = _sorted_out(ids, [seen.form for seen in looks])
    if len(forms) > 1:
        for form, names in forms.items():
            remedy = "all are read alike, as image.reader.params say; drop rows in tables.py that are mistakes"
            yield Fault("kinds of images", listed(names), f"{len(names)} are {form}; {remedy}", fatal=False)
    yield from _odd_sizes(ids, looks)
    yield from _dark(ids, [seen if not seen.constant else Look() for seen in looks])


def image_count_faults(train: pd.DataFrame, test: pd.DataFrame) -> Iterator[Fault]:
    """Prediction ids that have far more images in one table than in the other."""
    if train.empty or test.empty or ROW_PREDICTION not in train or ROW_PREDICTION not in test:
        return
    ours, asked = (float(rows[ROW_PREDICTION].value_counts().mean()) for rows in (train, test))
    if max(ours, asked) >= 2 * min(ours, asked):
        detail = (
            f"a prediction id has {ours:.1f} images in training and {asked:.1f} in the test table, on average; see "
            "whether prediction_column (competition.yaml) means the same in both, and whether rows are missing"
        )
        yield Fault("images per id", ROW_PREDICTION, detail, fatal=False)


def _unreadable(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    faults = pd.Series([seen.fault for seen in looks], index=rows.index, dtype="str")
    lost = faults.str.startswith("there is no image")
    parts = (rows[ROW_FOLD] == TEST).map({True: "test rows", False: "training rows"})
    nowhere = [part for part, of in lost.groupby(parts) if of.all() and len(of) > 1]
    for part in nowhere:
        first, of = faults[parts == part].iloc[0], int((parts == part).sum())
        yield Fault("image pattern", str(part), f"none of their {of} images is there; the first one: {first}")
    left = faults[(faults != "") & ~(parts.isin(nowhere))]
    for fault, same in left.groupby(left, sort=False):
        names = rows.loc[same.index, ROW_ID].astype(str)
        yield Fault(_image_problem(str(fault)), listed(names), str(fault))


def _image_problem(fault: str) -> str:
    if fault.startswith("there is no"):
        return "missing image"
    if fault.startswith("cannot read the archive"):
        return "damaged archive"
    if "needs the package" in fault:
        return "missing package"
    return "truncated image" if "truncated" in fault else "unreadable image"


def _sorted_out(ids: np.ndarray, values: Iterable[object]) -> dict[object, list[str]]:
    """What is there -> whose it is, the most frequent one first; nothing and 0 are left out."""
    found: dict[object, list[str]] = {}
    for name, value in zip(ids, values, strict=True):
        if value:
            found.setdefault(value, []).append(name)
    return dict(sorted(found.items(), key=lambda entry: -len(entry[1])))


def _odd_sizes(ids: np.ndarray, looks: Sequence[Look]) -> Iterator[Fault]:
    """Images far larger, smaller or longer than the others."""
    seen = np.array([position for position, look in enumerate(looks) if min(look.size) > 0], np.int64)
    if len(seen) < 3:
        return
    sizes = np.array([looks[position].size for position in seen], np.float64)
    odd = _outlying(np.sqrt(sizes.prod(axis=1)), SIDE) | _outlying(sizes.max(axis=1) / sizes.min(axis=1), SHAPE)
    if odd.any():
        height, width = np.median(sizes, axis=0)
        examples = listed(("{:.0f}x{:.0f}".format(*size) for size in sizes[odd]), 3)
        detail = (
            f"{odd.sum()} images of {examples} pixels (height x width) stand out from a median of "
            f"{height:.0f}x{width:.0f}; look at them, and drop their rows in tables.py where they are mistakes"
        )
        yield Fault("odd sizes", listed(ids[seen[odd]]), detail, fatal=False)


def _dark(ids: np.ndarray, looks: Sequence[Look]) -> Iterator[Fault]:
    """Images that are nearly black, all of them: values of 10 or 12 bits in files of 16, above all."""
    seen = [(name, look.brightest) for name, look in zip(ids, looks, strict=True) if look.dtype]
    top = max((brightest for _, brightest in seen), default=1.0)
    if top < DARK:
        detail = (
            f"the brightest pixel of all images is {top:.2%} of white, which is hardly seen; set "
            f"image.reader.params.high to the value that becomes white ({top * 65535:.0f} where files have 16 bits and "
            "it was not set yet)"
        )
        yield Fault("dark images", listed(name for name, _ in seen), detail, fatal=False)


def _outlying(values: np.ndarray, least: float) -> np.ndarray:
    """bool (N,): positive values whose modified z-score, of logarithms, is an outlier's, and that are `least` times
    the median, or less than the inverse of it."""
    logs = np.log(values)
    away = np.abs(logs - np.median(logs))
    deviation = np.median(away) / 0.6745  # that of a normal distribution from its median absolute deviation
    outlying: np.ndarray = away > np.maximum(np.log(least), DEVIATIONS * deviation)
    return outlying


def copy_faults(rows: pd.DataFrame, looks: Iterable[Look], settings: Settings) -> Iterator[Fault]:
    """Training images that are the same file under different labels."""
    targets = [column for column in settings.target_columns if column in rows]
    seen = rows.assign(digest=[look.digest for look in looks])
    seen = seen[(seen[ROW_FOLD] >= NO_FOLD) & (seen["digest"] != "")]
    for _, copies in seen[seen["digest"].duplicated(keep=False)].groupby("digest"):
        labels = copies[targets].astype(str).agg(" / ".join, axis=1) if targets else pd.Series(dtype="str")
        if labels.nunique() > 1:
            detail = f"the same file, labelled {listed(labels.unique(), 5)}"
            yield Fault("copies with different labels", listed(copies[ROW_ID]), detail, fatal=False)
