"""What images hold: files of which a part is lost, pictures that are blank, in the alpha channel, or all the same."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.leaks import TEST
from pipeline.keys import ROW_FOLD, ROW_ID, ROW_IMAGE
from toolkit.audit.scan import Look
from toolkit.errors import listed


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
    for name, image, fold, seen in zip(rows[ROW_ID], rows[ROW_IMAGE], rows[ROW_FOLD], looks, strict=True):
        if seen.damage:
            remedy = "download it again" + ("" if fold == TEST else ", or drop its row in tables.py")
            yield Fault("damaged image", str(name), f"{image}: {seen.damage}; {remedy}", fatal=fold != TEST)


def _blank(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    """Images that are read and show nothing, and images that are all the same."""
    ids, read = rows[ROW_ID].astype(str).to_numpy(), [seen for seen in looks if seen.dtype]
    names = [name for name, seen in zip(ids, looks, strict=True) if seen.alpha]
    if names:
        detail = (
            f"{len(names)} images are of one colour, and their picture is in the alpha channel, which is dropped; set "
            "image.reader.params.channels and model.in_chans to 4, or write a reader of your own that gives it as grey"
        )
        yield Fault("picture in the alpha channel", listed(names), detail)
    names = [name for name, seen in zip(ids, looks, strict=True) if seen.constant and not seen.alpha]
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
    thumbnails = [seen.thumbnail for seen in read]
    if len(read) > 2 and thumbnails[0].any() and all(np.array_equal(each, thumbnails[0]) for each in thumbnails):
        remedy = "look at the image pattern in competition.yaml, at the files, or at the reader"
        if rows[ROW_IMAGE].nunique() == 1:
            remedy = "they have one path, so the reader has to ask for the row, by a third positional parameter"
        yield Fault("one image", listed(ids), f"the {len(read)} images are all read as the same picture; {remedy}")


def _values(rows: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Fault]:
    """Values that a reader gives and nothing can be trained on."""
    ids = rows[ROW_ID].astype(str).to_numpy()
    lost = [name for name, seen in zip(ids, looks, strict=True) if not np.isfinite(seen.brightest)]
    if lost:
        detail = (
            f"{len(lost)} images hold values that are no finite numbers; write a reader of your own that fills them"
        )
        yield Fault("no numbers", listed(lost), detail)
    outside = [name for name, seen in zip(ids, looks, strict=True) if 1.01 < seen.brightest < np.inf]
    if outside:
        most = max(seen.brightest for seen in looks if np.isfinite(seen.brightest))
        detail = (
            f"{len(outside)} images are read as values up to {most:.6g}, and 0 to 1 is expected; correct the reader"
        )
        yield Fault("values above 1", listed(outside), detail, fatal=False)


def data_statistics(rows: pd.DataFrame, looks: Sequence[Look]) -> str:
    """The line of an experiment that normalises by mean and deviation of the data; empty for 8-bit RGB.

    What the encoder was pretrained on says nothing about other channels, or about values that a reader has scaled.
    """
    seen = [look for look, fold in zip(looks, rows[ROW_FOLD], strict=True) if len(look.mean) and fold != TEST]
    seen = [look for look in seen if np.isfinite(look.square).all()]
    if not seen or len({look.channels for look in seen}) > 1:
        return ""
    mean = np.mean([look.mean for look in seen], axis=0)
    spread = np.sqrt(np.maximum(np.mean([look.square for look in seen], axis=0) - mean**2, 1e-6))
    texts = (", ".join(f"{value:.4f}" for value in values) for values in (mean, spread))
    return "image: {{prepare: {{name: standardize, params: {{mean: [{}], std: [{}]}}}}}}".format(*texts)
