"""The demo's leaderboard: the truth of its test rows."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from demo_data.files import ANSWERS
from pipeline.competition import Competition
from pipeline.data.marker import is_demo


def answer_rows(competition: Competition, data: Path) -> pd.DataFrame | None:
    """The test rows with their truth; none where the data is not the demo's."""
    if not (is_demo(data) and (data / ANSWERS).is_file()):
        return None
    update = {"train_csv": ANSWERS, "train_images": competition.settings.test_images}
    settings = competition.settings.model_copy(update=update)
    return replace(competition, settings=settings, trained_with=None).train_rows(data)
