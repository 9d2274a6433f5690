"""Kaggle's files become rows: an id, an image, and where its masks are. External rows are added here too.

Every cell is text, exactly as it stands in the csv. Beside the columns below, a row may have `source` (anything but
`competition`: it trains and is never scored), `weight` (its share in the loss) and `only_fold` (the one fold in whose
run it trains).

A table may have a row per image, per image and class, or per object. Where an image without objects has no row,
`every_image(table, settings, settings.train_images, data)` adds those of the folder. Where there is no table at all,
`pipeline.data.folders.rows_from_folders(data, "train/{case}/*.png")` makes rows, and `with_truth` adds the masks. What
only the names of folders and files say, it gives as columns, to be merged into the table.
"""

from pathlib import Path

import pandas as pd

from competition.targets import CLASSES, TRUTH
from pipeline.data.folders import rows_from_folders
from pipeline.data.tables import read_table
from pipeline.keys import ROW_ID, ROW_IMAGE
from pipeline.settings import Settings
from pipeline.tasks.segmentation.tables import mask_rows, rows_to_predict


def train_rows(settings: Settings, data: Path) -> pd.DataFrame:
    """One row per training image: `id`, `image` (path below `data`), the target column, `group` if there is one."""
    table = read_table(data / settings.train_csv, [settings.id_column])
    table = with_names(table, settings.train_images, settings, data)
    return mask_rows(table, settings, TRUTH, CLASSES, data, size=("height", "width"))


def test_rows(settings: Settings, data: Path) -> pd.DataFrame:
    """One row per image to predict: `id` and `image`. Without a test table the sample submission names the ids.

    An empty table is legal, for a competition that hides its test images: return `table.iloc[:0]`.
    """
    path = data / settings.test_csv
    table = read_table(path if path.is_file() else data / settings.sample_submission)
    table = with_names(table, settings.test_images, settings, data)
    return rows_to_predict(table, settings, TRUTH, CLASSES, data)


def with_names(table: pd.DataFrame, pattern: str, settings: Settings, data: Path) -> pd.DataFrame:
    """The table with what only the names of folders and files say: case, day, slice, width and height."""
    found = rows_from_folders(data, pattern, ids="path").drop(columns=[ROW_ID, ROW_IMAGE])
    ids = found["case"] + "_" + found["day"] + "_slice_" + found["slice"]
    return table.merge(found.assign(**{settings.id_column: ids}), how="left", on=settings.id_column)
