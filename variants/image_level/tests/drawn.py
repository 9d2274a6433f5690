"""The pictures of the small project, and its experiment."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from toolkit.files import read_yaml

NAMES: dict[str, str] = read_yaml(Path(__file__).with_name("shapes") / "shapes.yaml")["names"]
SMALL = """\
image: {size: 24}
model: {encoder: tiny, pretrained: false, drop_rate: 0.1}
losses: [{head: shape, loss: {name: focal, params: {gamma: 1}}}]
training: {epochs: 2, batch_size: 5}
optimizer: {lr: 0.02}
tracking: {every_steps: 4}
machine: {device: cpu, workers: 0}
"""


def draw_pictures(data: Path) -> None:
    """Pictures and tables as Kaggle would lay them out, and `answers.csv`: the truth of the test pictures."""
    random = np.random.default_rng(0)
    ids = [f"{number:04d}" for number in range(72)]
    shapes = [list(NAMES)[number // 2 % 3] for number in range(72)]  # a series has one shape
    (data / "pictures").mkdir(parents=True)
    for name, shape in zip(ids, shapes, strict=True):
        cv2.imwrite(str(data / "pictures" / f"{name}.png"), draw(shape, random))
    labels = [NAMES[shape] for shape in shapes]
    table = pd.DataFrame({"picture": ids, "shape": labels, "series": [f"s{number // 2}" for number in range(72)]})
    table[:60].to_csv(data / "train.csv", index=False)
    table.loc[60:, ["picture"]].to_csv(data / "test.csv", index=False)
    table.loc[60:, ["picture", "shape"]].to_csv(data / "answers.csv", index=False)
    sample = table.loc[60:, ["picture"]].sample(frac=1, random_state=0)  # another order than the test table's
    sample.assign(shape=NAMES["circle"]).to_csv(data / "sample_submission.csv", index=False)


def draw(shape: str, random: np.random.Generator) -> np.ndarray:
    """A shape in its own colour, somewhere on noise: uint8 (32, 32, 3), BGR."""
    picture = random.integers(0, 80, (32, 32, 3), dtype=np.uint8)
    x, y = (int(value) for value in random.integers(10, 22, 2))
    if shape == "circle":
        cv2.circle(picture, (x, y), 8, (40, 40, 220), -1)
    elif shape == "square":
        cv2.rectangle(picture, (x - 7, y - 7), (x + 7, y + 7), (40, 220, 40), -1)
    else:
        cv2.line(picture, (x - 8, y), (x + 8, y), (220, 40, 40), 6)
        cv2.line(picture, (x, y - 8), (x, y + 8), (220, 40, 40), 6)
    return picture
