"""Rows of the training and the test table."""

from pathlib import Path

import pandas as pd

from pipeline.data.tables import image_rows, read_table
from pipeline.settings import Settings


def train_rows(settings: Settings, data: Path) -> pd.DataFrame:
    return image_rows(read_table(data / settings.train_csv), settings, settings.train_images, data)


def test_rows(settings: Settings, data: Path) -> pd.DataFrame:
    return image_rows(read_table(data / settings.test_csv), settings, settings.test_images, data)
