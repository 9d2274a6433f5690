"""A small competition laid out like screening mammograms: several views of a breast, one probability for it."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from projects import Renders

ANSWERS = {
    "competition": "views",
    "trackers": [],
    "metric": "probabilistic_f1",
    "id_column": "image_id",
    "target_columns": "cancer",
    "group_column": "patient_id",
    "train_images": "train_images/{patient_id}/{image_id}.png",
    "test_images": "test_images/{patient_id}/{image_id}.png",
}
TABLES = """from pathlib import Path

import pandas as pd

from pipeline.data.tables import image_rows, read_table
from pipeline.settings import Settings


def with_prediction_id(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(prediction_id=table["patient_id"] + "_" + table["laterality"])


def train_rows(settings: Settings, data: Path) -> pd.DataFrame:
    table = with_prediction_id(read_table(data / settings.train_csv))
    return image_rows(table, settings, settings.train_images, data)


def test_rows(settings: Settings, data: Path) -> pd.DataFrame:
    table = with_prediction_id(read_table(data / settings.test_csv))
    return image_rows(table, settings, settings.test_images, data)
"""
EXPERIMENT = """extends: demo
image: {{size: 24}}
model: {{encoder: test_resnet}}
training: {{epochs: {epochs}, batch_size: 16}}
machine: {{workers: 0}}
"""


def multi_view_project(
    renders: Renders, target: Path, patients: int = 40, epochs: int = 3, told_by: str = "image"
) -> Path:
    """A project with the data, `prediction_column` and the experiment `small`.

    Args:
        told_by: what tells the truth: the `image`, or the side column `implant`, while the images are noise.
    """
    project = renders.copy(target, ANSWERS)
    set_answer(project, 'prediction_column: ""', "prediction_column: prediction_id")
    (project / "src/competition/tables.py").write_text(TABLES)
    (project / "experiments/small.yaml").write_text(EXPERIMENT.format(epochs=epochs))
    write_views(project / "data/raw", patients, told_by)
    return project


def set_answer(project: Path, old: str, new: str) -> None:
    """Change a line of competition.yaml."""
    path = project / "competition.yaml"
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def write_views(data: Path, patients: int, told_by: str) -> None:
    """Tables and images; in a sick breast one view at least shows it."""
    random = np.random.default_rng(0)
    for part, first, count in (("train", 0, patients), ("test", patients, patients // 4)):
        lines: list[dict[str, Any]] = []
        for patient in range(first, first + count):
            age = random.integers(40, 80)
            (data / f"{part}_images/{patient}").mkdir(parents=True)
            for laterality in "LR":
                sick = bool(random.random() < 0.4)
                views = ["CC", "MLO", "CC"][: random.integers(1, 4)]
                shown = random.integers(len(views))
                for number, view in enumerate(views):
                    name = f"{patient}{laterality}{number}"
                    path = data / f"{part}_images/{patient}/{name}.png"
                    seen = sick and told_by == "image" and (number == shown or random.random() < 0.5)
                    cv2.imwrite(str(path), draw(seen, random))
                    implant = sick if told_by == "implant" else random.random() < 0.2
                    line = {"patient_id": patient, "image_id": name, "laterality": laterality, "view": view}
                    line |= {"age": "" if random.random() < 0.2 else age, "implant": implant, "cancer": int(sick)}
                    lines.append(line)
        table = pd.DataFrame(lines)
        ids = (table["patient_id"].astype(str) + "_" + table["laterality"]).unique()
        if part == "train":
            table.to_csv(data / "train.csv", index=False)
        else:
            table.drop(columns="cancer").to_csv(data / "test.csv", index=False)
            sample = pd.DataFrame({"prediction_id": random.permutation(ids), "cancer": 0.02})
            sample.to_csv(data / "sample_submission.csv", index=False)


def draw(sick: bool, random: np.random.Generator) -> np.ndarray:
    """Noise uint8 (24, 24), with a bright spot where something is to be seen."""
    image = random.integers(0, 120, (24, 24), dtype=np.uint8)
    if sick:
        x, y = (int(value) for value in random.integers(7, 17, 2))
        cv2.circle(image, (x, y), 5, 240, -1)
    return image
