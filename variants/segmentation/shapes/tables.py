"""Kaggle's files become rows: an id, an image, and where its masks are."""

from pathlib import Path

import pandas as pd

from competition.targets import CLASSES, TRUTH
from pipeline.data.tables import read_table
from pipeline.settings import Settings
from pipeline.tasks.segmentation.tables import mask_rows, rows_to_predict


def train_rows(settings: Settings, data: Path) -> pd.DataFrame:
    return mask_rows(read_table(data / settings.train_csv), settings, TRUTH, CLASSES, data)


def test_rows(settings: Settings, data: Path) -> pd.DataFrame:
    return rows_to_predict(read_table(data / settings.test_csv), settings, TRUTH, CLASSES, data)
