"""Faults of images: missing, unreadable, damaged, blank or odd ones, and copies under different labels."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.folds import NO_FOLD
from pipeline.data.leaks import TEST
from pipeline.keys import ROW_FOLD, ROW_ID, ROW_IMAGE, ROW_PREDICTION
from pipeline.settings import Settings
from toolkit.audit.scan import Look
from toolkit.errors import listed

DEVIATIONS = 3.5  # modified z-score beyond which a value is an outlier (Iglewicz and Hoaglin, 1993)
SIDE, SHAPE = 4.0, 3.0  # and how many times the median side, and ratio of sides, it must be at least
DARK = 0.25  # where even the brightest pixel is darker, images are hardly seen


def image_faults(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    """Images that cannot be read, and a mixture of kinds of images that cannot be stacked or looks like a mistake.

    Args:
        rows: of `leaks.all_rows`.
        looks: what `scan` saw of their images, in the same order.
    """
    ids = rows[ROW_ID].astype(str).to_numpy()
    yield from _unreadable(rows, looks)
    for name, values, remedy in (
        ("value types", [look.dtype for look in looks], "set image.reader.params.as_float to true"),
        ("channels", [look.channels for look in looks], "set image.reader.params.channels to one number for all"),
    ):
        found = _sorted_out(ids, values)
        if len(found) > 1:
            for value, names in found.items():
                yield Fault(f"mixed {name}", listed(names), f"{len(names)} images are read as {value}; {remedy}")
    forms = _sorted_out(ids, [look.form for look in looks])
    if len(forms) > 1:
        for form, names in forms.items():
            remedy = "all are read alike, as image.reader.params say; drop rows in tables.py that are mistakes"
            yield Fault("kinds of images", listed(names), f"{len(names)} are {form}; {remedy}", fatal=False)
    yield from _odd_sizes(ids, looks)
    yield from _dark(ids, [look if not look.constant else Look() for look in looks])


def _unreadable(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    faults = pd.Series([look.fault for look in looks], index=rows.index, dtype="str")
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
    readable = np.array([position for position, look in enumerate(looks) if min(look.size) > 0], np.int64)
    if len(readable) < 3:
        return
    sizes = np.array([looks[position].size for position in readable], np.float64)
    odd = _outlying(np.sqrt(sizes.prod(axis=1)), SIDE) | _outlying(sizes.max(axis=1) / sizes.min(axis=1), SHAPE)
    if odd.any():
        height, width = np.median(sizes, axis=0)
        examples = listed(("{:.0f}x{:.0f}".format(*size) for size in sizes[odd]), 3)
        detail = (
            f"{odd.sum()} images of {examples} pixels (height x width) stand out from a median of "
            f"{height:.0f}x{width:.0f}; look at them, and drop their rows in tables.py where they are mistakes"
        )
        yield Fault("odd sizes", listed(ids[readable[odd]]), detail, fatal=False)


def _outlying(values: np.ndarray, least: float) -> np.ndarray:
    """bool (N,): positive values whose modified z-score, of logarithms, is an outlier's, and that are `least` times
    the median, or less than the inverse of it."""
    logs = np.log(values)
    away = np.abs(logs - np.median(logs))
    deviation = np.median(away) / 0.6745  # that of a normal distribution from its median absolute deviation
    outlying: np.ndarray = away > np.maximum(np.log(least), DEVIATIONS * deviation)
    return outlying


def _dark(ids: np.ndarray, looks: Sequence[Look]) -> Iterator[Fault]:
    """Images that are nearly black, all of them: values of 10 or 12 bits in files of 16, above all."""
    readable = [(name, look.brightest) for name, look in zip(ids, looks, strict=True) if look.dtype]
    top = max((brightest for _, brightest in readable), default=1.0)
    if top < DARK:
        detail = (
            f"the brightest pixel of all images is {top:.2%} of white, which is hardly seen; set "
            f"image.reader.params.high to the value that becomes white ({top * 65535:.0f} where files have 16 bits and "
            "it was not set yet)"
        )
        yield Fault("dark images", listed(name for name, _ in readable), detail, fatal=False)


def copy_faults(rows: pd.DataFrame, looks: Iterable[Look], settings: Settings) -> Iterator[Fault]:
    """Training images that are the same file under different labels."""
    targets = [column for column in settings.target_columns if column in rows]
    files = rows.assign(digest=[look.digest for look in looks])
    files = files[(files[ROW_FOLD] >= NO_FOLD) & (files["digest"] != "")]
    for _, copies in files[files["digest"].duplicated(keep=False)].groupby("digest"):
        labels = copies[targets].astype(str).agg(" / ".join, axis=1) if targets else pd.Series(dtype="str")
        if labels.nunique() > 1:
            detail = f"the same file, labelled {listed(labels.unique(), 5)}"
            yield Fault("copies with different labels", listed(copies[ROW_ID]), detail, fatal=False)


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


def content_faults(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    """Images that are read, and hold less than they should.

    Args:
        rows: of `leaks.all_rows`.
        looks: what `scan` saw of their images, in the same order.
    """
    yield from _damaged(rows, looks)
    yield from _blank(rows, looks)
    yield from _values(rows, looks)


def _damaged(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    """Files that are read though a part of them is lost. Rows that are asked for cannot be dropped."""
    for name, image, fold, look in zip(rows[ROW_ID], rows[ROW_IMAGE], rows[ROW_FOLD], looks, strict=True):
        if look.damage:
            remedy = "download it again" + ("" if fold == TEST else ", or drop its row in tables.py")
            yield Fault("damaged image", str(name), f"{image}: {look.damage}; {remedy}", fatal=fold != TEST)


def _blank(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    """Images that are read and show nothing, and images that are all the same."""
    ids, read = rows[ROW_ID].astype(str).to_numpy(), [look for look in looks if look.dtype]
    names = [name for name, look in zip(ids, looks, strict=True) if look.alpha]
    if names:
        detail = (
            f"{len(names)} images are of one colour, and their picture is in the alpha channel, which is dropped; set "
            "image.reader.params.channels and model.in_chans to 4, or write a reader of your own that gives it as grey"
        )
        yield Fault("picture in the alpha channel", listed(names), detail)
    names = [name for name, look in zip(ids, looks, strict=True) if look.constant and not look.alpha]
    if names and len(names) == len(read) > 1:
        detail = (
            f"each of the {len(names)} images has one value everywhere; look at them, or at low and high of the reader"
        )
        yield Fault("blank images", listed(names), detail)
    elif names:
        detail = (
            f"{len(names)} of {len(read)} images have one value everywhere; drop rows in tables.py that are mistakes"
        )
        yield Fault("blank images", listed(names), detail, fatal=False)
    thumbnails = [look.thumbnail for look in read]
    if len(read) > 2 and thumbnails[0].any() and all(np.array_equal(each, thumbnails[0]) for each in thumbnails):
        remedy = "look at the image pattern in competition.yaml, at the files, or at the reader"
        if rows[ROW_IMAGE].nunique() == 1:
            remedy = "they have one path, so the reader has to ask for the row, by a third positional parameter"
        yield Fault("one image", listed(ids), f"the {len(read)} images are all read as the same picture; {remedy}")


def _values(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    """Values that a reader gives and nothing can be trained on."""
    ids = rows[ROW_ID].astype(str).to_numpy()
    lost = [name for name, look in zip(ids, looks, strict=True) if not np.isfinite(look.brightest)]
    if lost:
        detail = (
            f"{len(lost)} images hold values that are no finite numbers; write a reader of your own that fills them"
        )
        yield Fault("no numbers", listed(lost), detail)
    outside = [name for name, look in zip(ids, looks, strict=True) if 1.01 < look.brightest < np.inf]
    if outside:
        most = max(look.brightest for look in looks if np.isfinite(look.brightest))
        detail = (
            f"{len(outside)} images are read as values up to {most:.6g}, and 0 to 1 is expected; correct the reader"
        )
        yield Fault("values above 1", listed(outside), detail, fatal=False)


def data_statistics(rows: pd.DataFrame, looks: Sequence[Look]) -> str:
    """The line of an experiment that normalises by mean and deviation of the data; empty for 8-bit RGB.

    What the encoder was pretrained on says nothing about other channels, or about values that a reader has scaled.
    """
    trained = [look for look, fold in zip(looks, rows[ROW_FOLD], strict=True) if len(look.mean) and fold != TEST]
    trained = [look for look in trained if np.isfinite(look.square).all()]
    if not trained or len({look.channels for look in trained}) > 1:
        return ""
    mean = np.mean([look.mean for look in trained], axis=0)
    spread = np.sqrt(np.maximum(np.mean([look.square for look in trained], axis=0) - mean**2, 1e-6))
    texts = (", ".join(f"{value:.4f}" for value in values) for values in (mean, spread))
    return "image: {{prepare: {{name: standardize, params: {{mean: [{}], std: [{}]}}}}}}".format(*texts)
