"""`competition.yaml`: the answers, as the code reads them."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.registry import validated
from toolkit.errors import UserError
from toolkit.files import read_yaml

FILE_NAME = "competition.yaml"
LIVE = ("competition", "metric", "trackers", "submission_type", "test_csv", "sample_submission", "test_images")
"""Settings that form no weights: a run takes those of today."""


class Settings(BaseModel):
    """What the competition looks like: tables, columns, image paths, metric.

    `train_images` and `test_images` are path patterns below the data folder with any column of the table in braces.
    `side_columns` has the categories of each side column, none where it holds numbers or true and false.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    competition: str
    task: str
    metric: str
    trackers: tuple[str, ...] = ()
    submission_type: Literal["csv", "notebook"] = "csv"
    train_csv: str = "train.csv"
    test_csv: str = "test.csv"
    sample_submission: str = "sample_submission.csv"
    id_column: str = Field(default="image_id", min_length=1)
    target_columns: tuple[str, ...] = Field(min_length=1)
    group_column: str = ""
    prediction_column: str = ""
    side_columns: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    train_images: str
    test_images: str

    @field_validator("side_columns", mode="before")
    @classmethod
    def _with_categories(cls, columns: Any) -> Any:
        """A list of names is short for columns without categories."""
        is_short = isinstance(columns, list) and all(isinstance(column, str) for column in columns)
        return dict.fromkeys(columns, ()) if is_short else columns

    @model_validator(mode="after")
    def _named_once(self) -> "Settings":
        columns = [*self.target_columns, *self.side_columns]
        twice = {column for column in columns if columns.count(column) > 1}
        if twice:
            raise ValueError(f"target_columns and side_columns name twice: {', '.join(sorted(twice))}")
        return self


def read_settings(package_file: str | Path) -> Settings:
    """Read the first `competition.yaml` in the folders above `package_file`. A run's snapshot has one of its own, so it
    goes on with the answers it was made with, save for those in `LIVE`."""
    start = Path(package_file).resolve().parent
    for folder in start.parents:
        path = folder / FILE_NAME
        if path.is_file():
            return parse_settings(read_yaml(path), path)
    raise UserError(f"no {FILE_NAME} above {start}; restore it from git")


def parse_settings(values: dict[str, Any], path: Path) -> Settings:
    """Check the answers; a `UserError` for an unknown key (with the nearest one) or a value of the wrong type."""
    return validated(Settings, values, path.name)
