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
from pipeline.data.tables import read_table
from pipeline.settings import Settings
from pipeline.tasks.segmentation.tables import mask_rows, rows_to_predict


def train_rows(settings: Settings, data: Path) -> pd.DataFrame:
    """One row per training image: `id`, `image` (path below `data`), the target column, `group` if there is one."""
    groups = [settings.group_column] if settings.group_column else []
    table = read_table(data / settings.train_csv, [settings.id_column, *groups])
    return mask_rows(table, settings, TRUTH, CLASSES, data)


def test_rows(settings: Settings, data: Path) -> pd.DataFrame:
    """One row per image to predict: `id` and `image`. Without a test table the sample submission names the ids.

    An empty table is legal, for a competition that hides its test images: return `table.iloc[:0]`.
    """
    path = data / settings.test_csv
    table = read_table(path if path.is_file() else data / settings.sample_submission)
    return rows_to_predict(table, settings, TRUTH, CLASSES, data)
