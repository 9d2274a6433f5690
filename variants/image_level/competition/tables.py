"""Kaggle's files become rows: an id, an image, and the truth. External or pseudo-labelled rows are added here too.

Every cell is text, exactly as it stands in the csv. Beside the columns below, a row may have `source` (anything but
`competition`: it trains and is never scored), `weight` (its share in the loss) and `only_fold` (the one fold in whose
run it trains).

Where the folders are the labels, `pipeline.data.folders.rows_from_folders(data, "train/{label}/*.jpg")` makes the rows.
Where images lie in several folders, `image_rows` takes a list of patterns; an archive counts as a folder.

Several images for one prediction: build the column that `prediction_column` (competition.yaml) names, and then call
`image_rows`. Where one line of a table stands for all of them, they are found by
`pipeline.data.folders.rows_of_all_images(table, settings, pattern, data)`.
"""

from pathlib import Path

import pandas as pd

from pipeline.data.tables import image_rows, read_table, sample_ids
from pipeline.settings import Settings


def train_rows(settings: Settings, data: Path) -> pd.DataFrame:
    """One row per training image: `id`, `image` (path below `data`), the target columns, `group` if there is one."""
    groups = [settings.group_column] if settings.group_column else []
    table = read_table(data / settings.train_csv, [settings.id_column, *settings.target_columns, *groups])
    return image_rows(table, settings, settings.train_images, data)


def test_rows(settings: Settings, data: Path) -> pd.DataFrame:
    """One row per image to predict: `id` and `image`. Without a test table the sample submission names the ids.

    An empty table is legal, for a competition that hides its test images: return `table.iloc[:0]`.
    """
    path = data / settings.test_csv
    if path.is_file():
        table = read_table(path, [settings.id_column])
    else:
        table = sample_ids(data / settings.sample_submission, settings.id_column)
    return image_rows(table, settings, settings.test_images, data)
