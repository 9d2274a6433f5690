"""Helpers for `src/competition/tables.py`: one row per image with its truth, whatever rows Kaggle's tables have."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.competition import Head
from pipeline.data.folders import rows_from_folders
from pipeline.data.tables import image_rows, require_columns
from pipeline.heads.mask_decoding import columns, decoded
from pipeline.keys import ROW_ID, ROW_IMAGE
from pipeline.rows import with_text
from pipeline.settings import Settings
from pipeline.tasks.segmentation.forms import Form, Image
from pipeline.tasks.segmentation.truth import RunTruth
from toolkit.errors import UserError
from toolkit.masks import rle


def mask_rows(
    table: pd.DataFrame,
    settings: Settings,
    form: Form,
    classes: Sequence[str],
    data: Path,
    size: str | tuple[str, str] = "",
) -> pd.DataFrame:
    """Training rows as `image_rows` gives them, one per image, with the truth in the target column.

    Args:
        table: of `read_table`; it may have a row per image, per image and class, or per object.
        form: how masks are given; see `forms`.
        size: what says height and width where the image's file is not to be asked: two columns, or an expression
            that is searched in the path and has these groups: `slice_\\d+_(?P<width>\\d+)_(?P<height>\\d+)_`.

    Raises:
        UserError: a column is missing, a class or a value is unknown, or a path has no size in it.
    """
    require_columns(table, [settings.id_column], settings.train_csv)
    table = form.by_image(with_text(table, [settings.id_column]), settings.id_column, classes)
    own = [name for name in form.own_columns if name != settings.id_column]
    single = table.drop_duplicates(settings.id_column).drop(columns=own, errors="ignore").reset_index(drop=True)
    rows = image_rows(single, settings, settings.train_images, data)
    return with_truth(rows, table.assign(**{ROW_ID: table[settings.id_column]}), settings, form, classes, data, size)


def with_truth(
    rows: pd.DataFrame,
    table: pd.DataFrame,
    settings: Settings,
    form: Form,
    classes: Sequence[str],
    data: Path,
    size: str | tuple[str, str] = "",
) -> pd.DataFrame:
    """Rows of `id` and `image` with the truth in the target column, of a table that has an `id` as often as it has
    masks; an image without a row in the table has an empty one. See `mask_rows`."""
    rows, table = with_text(rows, [ROW_ID, ROW_IMAGE]), with_text(table, [ROW_ID])
    truths = form.truths(table, rows, _images(rows, data, size), tuple(classes), data)
    return rows.assign(**{settings.target_columns[0]: pd.Series(truths, index=rows.index, dtype=object)})


def rows_to_predict(
    table: pd.DataFrame, settings: Settings, form: Form, classes: Sequence[str], data: Path
) -> pd.DataFrame:
    """Test rows, one per image, of a test table or of a sample submission that has several rows per image."""
    require_columns(table, [settings.id_column], "the table of test rows")
    table = form.by_image(with_text(table, [settings.id_column]), settings.id_column, classes)
    single = table.drop_duplicates(settings.id_column).reset_index(drop=True)
    return image_rows(single, settings, settings.test_images, data)


def every_image(table: pd.DataFrame, settings: Settings, pattern: str, data: Path) -> pd.DataFrame:
    """The table with a row for each image of the folder that it does not name, since an image without objects has none;
    the pattern is as in competition.yaml, `train_images/{image_id}.png`."""
    found = rows_from_folders(data, pattern, ids="path")
    ids = found[settings.id_column] if settings.id_column in found else found[ROW_ID]
    table = with_text(table, [settings.id_column])
    known = set(table[settings.id_column])
    whole = ids + found[ROW_IMAGE].str.extract(r"(\.[^./]+)$")[0]  # with the extension
    ids = whole if not known & set(ids) and known & set(whole) else ids
    new = found.drop(columns=[ROW_ID, ROW_IMAGE]).assign(**{settings.id_column: ids})
    return pd.concat([table, new[~ids.isin(known)]], ignore_index=True)


def mask_labels(predictions: pd.DataFrame, heads: Sequence[Head], of_rows: bool) -> pd.DataFrame:
    """Of predictions, the masks as the heads decide them: for each class its RLE, for each head the size of the image,
    by id. A `UserError` where a confidence or a probability `of_rows` is asked for."""
    if of_rows:
        raise UserError("masks are decided for each pixel: pseudo labels of them are neither --above nor --soft")
    found: dict[str, list[str]] = {}
    for head in heads:
        planes = list(decoded(predictions, head))
        found[f"{head.name}@size"] = [f"{each.shape[1]} {each.shape[2]}" for each in planes]
        for number, name in enumerate(columns(head)):
            found[name] = [rle.encode(each[number]) for each in planes]
    return pd.DataFrame(found, index=predictions.index)


def with_masks(rows: pd.DataFrame, heads: Sequence[Head]) -> pd.DataFrame:
    """Rows with the truth that their `mask_labels` say."""
    for head in heads:
        names, size = columns(head), f"{head.name}@size"
        sizes = [(int(height), int(width)) for height, width in rows[size].str.split()]
        runs = [
            tuple((text,) if text else () for text in row) for row in zip(*(rows[each] for each in names), strict=True)
        ]
        truths = [RunTruth(head.classes, *each, frame="seen") for each in zip(sizes, runs, strict=True)]
        rows = rows.drop(columns=[size, *names]).assign(**{head.name: pd.Series(truths, rows.index, dtype=object)})
    return rows


def _images(rows: pd.DataFrame, data: Path, size: str | tuple[str, str]) -> list[Image]:
    """The size of each image where it is told, or else its file."""
    if not size:
        return [data / path for path in rows[ROW_IMAGE]]
    if isinstance(size, tuple):
        require_columns(rows, size, "the training table")
        return [(int(height), int(width)) for height, width in zip(rows[size[0]], rows[size[1]], strict=True)]
    sizes: list[Image] = []
    for path in rows[ROW_IMAGE]:
        match = re.search(size, path)
        if match is None:
            raise UserError(f"the path {path} does not fit the expression of its size, {size}; correct it in tables.py")
        sizes.append((int(match["height"]), int(match["width"])))
    return sizes
