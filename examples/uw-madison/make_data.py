"""Small data in the exact layout of UW-Madison GI Tract Image Segmentation: `python make_data.py DIR`.

16-bit grey slices whose size stands in the file name, cases and days as folders, three rows of train.csv per slice,
masks as run lengths that count row by row. Instead of scans there are drawn organs; every case has sizes, places and a
brightness of its own. What is to be predicted goes into hidden_answers.csv.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

CLASSES = ("large_bowel", "small_bowel", "stomach")
LEVELS = (9_000, 15_000, 23_000)  # grey values, of some 30,000
HEIGHT, WIDTH = 96, 120
TRAIN_CASES, TEST_CASES, DAYS, SLICES = 8, 3, 2, 10


def rle(mask: np.ndarray) -> str:
    """Starts and lengths of the runs of a mask, (H, W), row by row, from 1."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel().astype(np.int8), [0]])))
    return " ".join(f"{start + 1} {end - start}" for start, end in edges.reshape(-1, 2))


def organs(generator: np.random.Generator, body: dict[str, np.ndarray], depth: float) -> list[np.ndarray]:
    """A mask (H, W) for each class in a slice; depth goes from 0 to 1. The first and the last slices show none."""
    masks = []
    for number in range(len(CLASSES)):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        size = body["size"][number] * np.sin(np.pi * np.clip((depth - 0.15) / 0.7, 0, 1))
        if size > 4 and generator.random() > 0.1:
            center = body["center"][number] + generator.normal(0, 1, 2)
            axes = (round(size), round(size * body["ratio"][number]))
            angle = float(body["angle"][number])
            cv2.ellipse(mask, tuple(np.rint(center).astype(int).tolist()), axes, angle, 0, 360, 1, -1)
        masks.append(mask)
    return masks


def slices(generator: np.random.Generator, case: str, folder: Path) -> list[dict[str, str]]:
    """Write the scans of one case; a row for every slice and class."""
    body = {
        "center": np.array([[30, 30], [85, 35], [60, 70]]) + generator.normal(0, 4, (3, 2)),
        "size": generator.uniform(12, 20, 3),
        "ratio": generator.uniform(0.6, 0.95, 3),
        "angle": generator.uniform(0, 180, 3),
    }
    gain, rows = generator.uniform(0.9, 1.1), []
    for day in range(1, DAYS + 1):
        name = f"{case}_day{day}"
        scans = folder / case / name / "scans"
        scans.mkdir(parents=True)
        for number in range(1, SLICES + 1):
            masks = organs(generator, body, number / SLICES)
            pixels = generator.normal(3_000, 700, (HEIGHT, WIDTH))
            for level, mask in zip(LEVELS, masks, strict=True):
                pixels[mask > 0] = generator.normal(level, 1_200, int(mask.sum()))
            scan = np.clip(cv2.GaussianBlur(gain * pixels, (3, 3), 0), 0, 65_535).astype(np.uint16)
            cv2.imwrite(str(scans / f"slice_{number:04d}_{WIDTH}_{HEIGHT}_1.50_1.50.png"), scan)
            rows += [
                {"id": f"{name}_slice_{number:04d}", "class": label, "segmentation": rle(mask)}
                for label, mask in zip(CLASSES, masks, strict=True)
            ]
    return rows


def main() -> None:
    data = Path(sys.argv[1])
    generator = np.random.default_rng(0)
    train = [row for n in range(TRAIN_CASES) for row in slices(generator, f"case{n + 2}", data / "train")]
    test = pd.DataFrame([row for n in range(TEST_CASES) for row in slices(generator, f"case{n + 101}", data / "test")])
    pd.DataFrame(train).to_csv(data / "train.csv", index=False)
    test[["id", "class"]].assign(predicted="").to_csv(data / "sample_submission.csv", index=False)
    test.rename(columns={"segmentation": "predicted"}).to_csv(data / "hidden_answers.csv", index=False)


if __name__ == "__main__":
    main()
