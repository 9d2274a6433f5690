"""The pictures of the small project, and its experiment."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from toolkit.masks.rle import encode

COLORS = {"disc": (40, 40, 220), "bar": (40, 220, 40)}  # BGR
SMALL = """\
image: {size: 32}
task: {params: {overlap: 0.5}}
model: {name: small, pretrained: false}
losses: [{head: shape, loss: bce}, {head: shape, loss: {name: squared}}]
training: {epochs: 10, batch_size: 6}
optimizer: {lr: 0.02}
tracking: {every_steps: 4}
machine: {device: cpu, workers: 0}
"""


def draw_pictures(data: Path) -> None:
    """Pictures and tables as Kaggle would lay them out, and `answers.csv`: the truth of the test pictures."""
    random = np.random.default_rng(0)
    (data / "pictures").mkdir(parents=True)
    rows = []
    for number in range(72):
        name = f"{number:04d}"
        picture, masks = draw(random, (48, 80) if number % 12 == 0 else (32, 40))
        cv2.imwrite(str(data / "pictures" / f"{name}.png"), picture)
        rows += [
            {"picture": name, "series": f"s{number // 2}", "class": shape, "rle": encode(mask)}
            for shape, mask in zip(COLORS, masks, strict=True)
        ]
    table = pd.DataFrame(rows)
    table[:120].to_csv(data / "train.csv", index=False)
    table.loc[120:, ["picture"]].drop_duplicates().to_csv(data / "test.csv", index=False)
    answers = table.loc[120:, ["picture", "class", "rle"]]
    answers.to_csv(data / "answers.csv", index=False)
    answers.assign(rle="").to_csv(data / "sample_submission.csv", index=False)


def draw(random: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Shapes in their own colours on noise, uint8 (H, W, 3), and the mask of each class; one may be missing."""
    picture = random.integers(0, 80, (*size, 3), dtype=np.uint8)
    masks = []
    for shape, color in COLORS.items():
        mask = np.zeros(size, np.uint8)
        x, y = int(random.integers(10, size[1] - 10)), int(random.integers(10, size[0] - 10))
        if random.random() > 0.25:
            if shape == "disc":
                cv2.circle(mask, (x, y), 7, 1, -1)
            else:
                cv2.rectangle(mask, (x - 8, y - 3), (x + 8, y + 3), 1, -1)
        picture[mask > 0] = color
        masks.append(mask > 0)
    return picture, [masks[0] & ~masks[1], masks[1]]
