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
MIXTURES = (  # column of `Look`, what a mixture of it is called, the remedy, whether it is fatal
    ("dtype", "mixed value types", "set image.reader.params.as_float to true", True),
    ("channels", "mixed channels", "set image.reader.params.channels to one number for all", True),
    ("form", "kinds of images", "all are read alike; drop rows in tables.py that are mistakes", False),
)


def image_faults(rows: pd.DataFrame, looks: Sequence[Look], targets: Sequence[str] = ()) -> Iterator[Fault]:
    """Images that cannot be read, that cannot be stacked, or that hold less than they should.

    Args:
        rows: of `leaks.all_rows`.
        looks: what `scan` says of their images, in the same order.
        targets: the columns that copies of a training image should agree in.
    """
    if rows.empty:
        return
    images = pd.DataFrame([vars(look) for look in looks])
    images = images.join(rows.reset_index(drop=True)[[ROW_ID, ROW_IMAGE, ROW_FOLD]])
    truth = rows[[column for column in targets if column in rows]].to_numpy(object)
    yield from _unreadable(images)
    for column, problem, remedy, fatal in MIXTURES:
        same = images[images[column].map(bool)].groupby(column)[ROW_ID]
        for value, names in sorted(same, key=lambda found: -len(found[1])) if same.ngroups > 1 else ():
            verb = "are read as" if fatal else "are"
            yield Fault(problem, listed(names), f"{len(names)} images {verb} {value}; {remedy}", fatal)
    yield from _odd_sizes(images[images["size"].map(min) > 0])
    for _, image in images[images["damage"] != ""].iterrows():
        asked = image[ROW_FOLD] == TEST  # such a row cannot be dropped
        remedy = "download it again" + ("" if asked else ", or drop its row in tables.py")
        yield Fault("damaged image", image[ROW_ID], f"{image[ROW_IMAGE]}: {image['damage']}; {remedy}", not asked)
    yield from _contents(images[images["dtype"] != ""])
    for _, copies in images[(images[ROW_FOLD] != TEST) & (images["digest"] != "")].groupby("digest"):
        labels = dict.fromkeys(" / ".join(map(str, cells)) for cells in truth[copies.index])
        if len(labels) > 1:
            detail = f"the same file, labelled {listed(labels, 5)}"
            yield Fault("copies with different labels", listed(copies[ROW_ID]), detail, fatal=False)


def _unreadable(images: pd.DataFrame) -> Iterator[Fault]:
    for part, of in images.groupby(images[ROW_FOLD].eq(TEST).map({True: "test rows", False: "training rows"})):
        if len(of) > 1 and of["kind"].eq("missing image").all():
            detail = f"none of their {len(of)} images is there; the first one: {of['fault'].iloc[0]}"
            yield Fault("image pattern", str(part), detail)
            images = images.drop(index=of.index)
    for (kind, fault), same in images[images["fault"] != ""].groupby(["kind", "fault"], sort=False):
        yield Fault(str(kind), listed(same[ROW_ID]), str(fault))


def _odd_sizes(images: pd.DataFrame) -> Iterator[Fault]:
    """Images far larger, smaller or longer than the others."""
    sizes = np.array(images["size"].tolist(), np.float64).reshape(-1, 2)
    odd = np.zeros(len(sizes), bool)
    for values, least in ((np.sqrt(sizes.prod(axis=1)), SIDE), (sizes.max(axis=1) / sizes.min(axis=1), SHAPE)):
        logs = np.log(values)
        far = np.abs(logs - np.median(logs)) > np.log(least) if len(logs) else odd
        odd |= far & (np.abs(modified_z_scores(logs)) > LIMIT)
    if odd.any():
        usual = "{:.0f}x{:.0f}".format(*np.median(sizes, axis=0))
        examples = listed(("{:.0f}x{:.0f}".format(*size) for size in sizes[odd]), 3)
        what = f"{odd.sum()} images of {examples} pixels (height x width) stand out from a median of {usual}"
        detail = f"{what}; drop their rows in tables.py if they are mistakes"
        yield Fault("odd sizes", listed(images[ROW_ID][odd]), detail, fatal=False)


def _contents(images: pd.DataFrame) -> Iterator[Fault]:
    """Images that are read, and that show nothing or hold values that cannot be trained on."""
    brightest, constant, alpha = images["brightest"], images["constant"], images["alpha"]
    top, above = brightest[~constant].max(), (brightest > 1.01) & np.isfinite(brightest)
    first = images["thumbnail"].iloc[0] if len(images) > 2 else np.zeros(1)
    same = first.any() and all(np.array_equal(each, first) for each in images["thumbnail"])
    single = "show the same picture; look at the image pattern in competition.yaml, or at the reader"
    if images[ROW_IMAGE].nunique() == 1:
        single += ": for one path it has to ask for the row, by a third positional parameter"
    params = "set image.reader.params"
    in_alpha = (
        f"are of one colour, and their picture is in the alpha channel; {params}.channels and model.in_chans to 4"
    )
    high = f"{params}.high to the value that becomes white ({top * 65535:.0f} of 16 bits)"
    not_shares = f"have values up to {brightest[above].max():.6g}, not 0 to 1; mend the reader"
    blank = constant & ~alpha
    for problem, which, detail, fatal in (
        ("picture in the alpha channel", alpha, in_alpha, True),
        (
            "blank images",
            blank,
            "have one value everywhere; drop mistakes, or see low and high",
            blank.all() and len(images) > 1,
        ),
        ("one image", pd.Series(same, index=images.index), single, True),
        ("dark images", ~constant & (top < DARK), f"have no pixel of more than {top:.2%} of white; {high}", False),
        ("no numbers", ~np.isfinite(brightest), "hold values that are no finite numbers; mend the reader", True),
        ("values above 1", above, not_shares, False),
    ):
        yield from together(problem, images[ROW_ID][which], f"{which.sum()} images {detail}", bool(fatal))


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
