"""Faults of images: missing, unreadable, damaged, blank or odd ones, and copies under different labels."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pipeline.data.faults import Fault, together
from pipeline.data.leaks import TEST
from pipeline.keys import ROW_FOLD, ROW_ID, ROW_IMAGE, ROW_PREDICTION
from toolkit.audit.label_errors import LIMIT, modified_z_scores
from toolkit.audit.scan import Look
from toolkit.errors import listed

SIDE, SHAPE = 4.0, 3.0  # how many times the median side, and ratio of sides, an outlier must be at least
DARK = 0.25  # where even the brightest pixel is darker, images are hardly seen
MISSING = "there is no image"
PROBLEMS = {MISSING: "missing image", "needs the package": "missing package", "truncated": "truncated image"}
MIXTURES = (  # column of `Look`, what a mixture of it is called, the remedy, whether it is fatal
    ("dtype", "mixed value types", "set image.reader.params.as_float to true", True),
    ("channels", "mixed channels", "set image.reader.params.channels to one number for all", True),
    ("form", "kinds of images", "all are read alike; drop rows in tables.py that are mistakes", False),
)


def image_faults(rows: pd.DataFrame, looks: Sequence[Look], targets: Sequence[str] = ()) -> Iterator[Fault]:
    """Images that cannot be read, that cannot be stacked, or that hold less than they should.

    Args:
        rows: of `leaks.all_rows`.
        looks: what `scan` saw of their images, in the same order.
        targets: the columns that copies of a training image should agree in.
    """
    if rows.empty:
        return
    seen = pd.DataFrame([vars(look) for look in looks])
    seen = seen.join(rows.reset_index(drop=True)[[ROW_ID, ROW_IMAGE, ROW_FOLD]])
    truth = rows[[column for column in targets if column in rows]].to_numpy(object)
    yield from _unreadable(seen)
    for column, problem, remedy, fatal in MIXTURES:
        same = seen[seen[column].map(bool)].groupby(column)[ROW_ID]
        for value, names in sorted(same, key=lambda found: -len(found[1])) if same.ngroups > 1 else ():
            verb = "are read as" if fatal else "are"
            yield Fault(problem, listed(names), f"{len(names)} images {verb} {value}; {remedy}", fatal)
    yield from _odd_sizes(seen[seen["size"].map(min) > 0])
    for _, look in seen[seen["damage"] != ""].iterrows():
        asked = look[ROW_FOLD] == TEST  # such a row cannot be dropped
        remedy = "download it again" + ("" if asked else ", or drop its row in tables.py")
        yield Fault("damaged image", look[ROW_ID], f"{look[ROW_IMAGE]}: {look['damage']}; {remedy}", fatal=not asked)
    yield from _contents(seen[seen["dtype"] != ""])
    for _, copies in seen[(seen[ROW_FOLD] != TEST) & (seen["digest"] != "")].groupby("digest"):
        labels = dict.fromkeys(" / ".join(map(str, cells)) for cells in truth[copies.index])
        if len(labels) > 1:
            detail = f"the same file, labelled {listed(labels, 5)}"
            yield Fault("copies with different labels", listed(copies[ROW_ID]), detail, fatal=False)


def _unreadable(seen: pd.DataFrame) -> Iterator[Fault]:
    parts = seen[ROW_FOLD].eq(TEST).map({True: "test rows", False: "training rows"})
    for part, of in seen.groupby(parts):
        if len(of) > 1 and of["fault"].str.startswith(MISSING).all():
            detail = f"none of their {len(of)} images is there; the first one: {of['fault'].iloc[0]}"
            yield Fault("image pattern", str(part), detail)
            seen = seen.drop(index=of.index)
    for fault, same in seen[seen["fault"] != ""].groupby("fault", sort=False):
        problem = next((problem for text, problem in PROBLEMS.items() if text in str(fault)), "unreadable image")
        yield Fault(problem, listed(same[ROW_ID]), str(fault))


def _odd_sizes(seen: pd.DataFrame) -> Iterator[Fault]:
    """Images far larger, smaller or longer than the others."""
    sizes = np.array(seen["size"].tolist(), np.float64).reshape(-1, 2)
    odd = np.zeros(len(sizes), bool)
    for values, least in ((np.sqrt(sizes.prod(axis=1)), SIDE), (sizes.max(axis=1) / sizes.min(axis=1), SHAPE)):
        logs = np.log(values)
        far = np.abs(logs - np.median(logs)) > np.log(least) if len(logs) else odd
        odd |= far & (np.abs(modified_z_scores(logs)) > LIMIT)
    examples = listed(("{:.0f}x{:.0f}".format(*size) for size in sizes[odd]), 3)
    usual = "{:.0f}x{:.0f}".format(*np.median(sizes, axis=0)) if len(sizes) else ""
    detail = f"{odd.sum()} images of {examples} pixels (height x width) stand out from a median of {usual}; "
    yield from together(
        "odd sizes", seen[ROW_ID][odd], f"{detail}drop their rows in tables.py if they are mistakes", False
    )


def _contents(seen: pd.DataFrame) -> Iterator[Fault]:
    """Images that are read, and that show nothing or hold values that cannot be trained on."""
    brightest, blank = seen["brightest"], seen["constant"] & ~seen["alpha"]
    top, above = brightest[~seen["constant"]].max(), (brightest > 1.01) & np.isfinite(brightest)
    first = seen["thumbnail"].iloc[0] if len(seen) > 2 else np.zeros(1)
    same = first.any() and all(np.array_equal(each, first) for each in seen["thumbnail"])
    alpha = "are of one colour, and their picture is in the alpha channel; set image.reader.params.channels and "
    dark = (
        f"have no pixel of more than {top:.2%} of white; set image.reader.params.high to the value that becomes white"
    )
    single = "show the same picture; look at the image pattern in competition.yaml, or at the reader"
    if seen[ROW_IMAGE].nunique() == 1:
        single += ": for one path it has to ask for the row, by a third positional parameter"
    for problem, which, detail, fatal in (
        ("picture in the alpha channel", seen["alpha"], f"{alpha}model.in_chans to 4", True),
        (
            "blank images",
            blank,
            "have one value everywhere; drop mistakes, or see low and high",
            blank.all() and len(seen) > 1,
        ),
        ("one image", pd.Series(same, index=seen.index), single, True),
        ("dark images", ~seen["constant"] & (top < DARK), f"{dark} ({top * 65535:.0f} of 16 bits)", False),
        ("no numbers", ~np.isfinite(brightest), "hold values that are no finite numbers; mend the reader", True),
        (
            "values above 1",
            above,
            f"have values up to {brightest[above].max():.6g}, not 0 to 1; mend the reader",
            False,
        ),
    ):
        yield from together(problem, seen[ROW_ID][which], f"{which.sum()} images {detail}", bool(fatal))


def image_count_faults(train: pd.DataFrame, test: pd.DataFrame) -> Iterator[Fault]:
    """Prediction ids that have far more images in one table than in the other."""
    if train.empty or test.empty or ROW_PREDICTION not in train or ROW_PREDICTION not in test:
        return
    ours, asked = (float(rows[ROW_PREDICTION].value_counts().mean()) for rows in (train, test))
    if max(ours, asked) >= 2 * min(ours, asked):
        detail = f"a prediction id has {ours:.1f} images in training and {asked:.1f} in the test table, on average"
        yield Fault("images per id", ROW_PREDICTION, f"{detail}; see whether prediction_column fits both", fatal=False)


def data_statistics(rows: pd.DataFrame, looks: Sequence[Look]) -> str:
    """The line of an experiment that normalises by mean and deviation of the data; empty for 8-bit RGB.

    What the encoder was pretrained on says nothing about other channels, or about values that a reader has scaled.
    """
    trained = [look for look, fold in zip(looks, rows[ROW_FOLD], strict=True) if len(look.mean) and fold != TEST]
    trained = [look for look in trained if np.isfinite(look.square).all()]
    if len({look.channels for look in trained}) != 1:
        return ""
    mean = np.mean([look.mean for look in trained], axis=0)
    spread = np.sqrt(np.maximum(np.mean([look.square for look in trained], axis=0) - mean**2, 1e-6))
    texts = (", ".join(f"{value:.4f}" for value in values) for values in (mean, spread))
    return "image: {{prepare: {{name: standardize, params: {{mean: [{}], std: [{}]}}}}}}".format(*texts)
