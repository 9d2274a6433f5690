"""Writes small drawn data in the exact layout of Kaggle's State Farm Distracted Driver Detection.

usage: make_data.py FOLDER        (data/raw of a project)

A class is where a bright disc stands on a ring; a subject is a colour of the background. 8 subjects, 10 classes.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

CLASSES = [f"c{number}" for number in range(10)]
SUBJECTS = [f"p{number:03d}" for number in (2, 12, 14, 15, 16, 21, 22, 24)]
PER_SUBJECT_AND_CLASS, TEST = 5, 100
HEIGHT, WIDTH = 48, 64


def draw(number: int, background: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One picture: uint8 (48, 64, 3)."""
    image = np.tile(background, (HEIGHT, WIDTH, 1)).astype(np.float64)
    angle = 2 * np.pi * number / len(CLASSES)
    x, y = WIDTH / 2 + 18 * np.cos(angle), HEIGHT / 2 + 18 * np.sin(angle)
    cv2.circle(image, (WIDTH // 2, HEIGHT // 2), 18, (90, 90, 90), 1)
    cv2.circle(image, (round(x + generator.normal()), round(y + generator.normal())), 5, (240, 230, 200), -1)
    return np.clip(image + generator.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder, generator = Path(sys.argv[1]), np.random.default_rng(0)
    backgrounds = generator.integers(20, 150, (len(SUBJECTS) + 4, 3))
    names = (f"img_{number}.jpg" for number in generator.permutation(102_000))
    rows = []
    for subject, background in zip(SUBJECTS, backgrounds, strict=False):
        for number, name in enumerate(CLASSES):
            for _ in range(PER_SUBJECT_AND_CLASS):
                rows.append({"subject": subject, "classname": name, "img": next(names)})
                write(folder / "imgs" / "train" / name / rows[-1]["img"], draw(number, background, generator))
    pd.DataFrame(rows).to_csv(folder / "driver_imgs_list.csv", index=False)
    test, answers = [], []
    for _ in range(TEST):
        number, background = int(generator.integers(10)), backgrounds[-1 - int(generator.integers(4))]
        test.append(next(names))
        answers.append(CLASSES[number])
        write(folder / "imgs" / "test" / test[-1], draw(number, background, generator))
    sample = pd.DataFrame({"img": test}).assign(**dict.fromkeys(CLASSES, 0.1))
    sample.to_csv(folder / "sample_submission.csv", index=False)
    pd.DataFrame({"img": test, "classname": answers}).to_csv(folder / "hidden_answers.csv", index=False)
    print(f"{len(rows)} training and {len(test)} test images in {folder}")


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


if __name__ == "__main__":
    main()
