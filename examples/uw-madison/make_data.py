"""Writes small drawn data in the exact layout of Kaggle's UW-Madison GI Tract Image Segmentation.

usage: make_data.py FOLDER        (data/raw of a project)

A case is a patient, a day one scan of it: a volume of slices. Organs are blobs that go on through neighbouring slices;
the first slices of a volume show none. 10 cases train and 3 are predicted, 2 days each, 6 slices a day. Values of the
16-bit images end below 700, so 8 bits hold 0, 1 and 2 of them.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

CASES = (2, 7, 15, 22, 30, 44, 81, 101, 123, 156)
TEST_CASES = (9, 66, 134)
DAYS, SLICES = 2, 6
SIZES = ((96, 80), (80, 112), (128, 96), (96, 128))  # height and width
# Where an organ is (row, column, slice), how large, both over the size of the volume, and how bright.
ORGANS = {
    "large_bowel": ((0.60, 0.30, 0.65), (0.20, 0.15, 0.35), 620),
    "small_bowel": ((0.70, 0.65, 0.70), (0.15, 0.20, 0.40), 130),
    "stomach": ((0.32, 0.62, 0.55), (0.15, 0.19, 0.30), 480),
}


def texture(shape: tuple[int, int, int], generator: np.random.Generator) -> np.ndarray:
    """Smooth noise of deviation 1, float32 (slices, height, width), that goes on through the slices."""
    noise = generator.normal(size=shape).cumsum(axis=0).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), 4) for plane in noise])
    return (smooth - smooth.mean()) / smooth.std()


def scan(places: dict[str, np.ndarray], generator: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One day of a case: uint16 (slices, height, width), and for each organ its mask, bool of that shape.

    Args:
        places: where the organs of this case are, as in `ORGANS`.
    """
    shape = (SLICES, *SIZES[generator.integers(len(SIZES))])
    slices, rows, columns = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    body = ((rows - 0.5) / 0.45) ** 2 + ((columns - 0.5) / 0.46) ** 2 < 1
    volume, masks = np.where(body, 300 + 30 * texture(shape, generator), 30), {}
    for organ, (_, size, brightness) in ORGANS.items():
        centre = places[organ] + generator.normal(0, 0.015, 3)
        away = sum(
            ((axis - at) / radius) ** 2 for axis, at, radius in zip((rows, columns, slices), centre, size, strict=True)
        )
        mask = away + 0.15 * texture(shape, generator) < 1
        mask &= body & (slices > 1.5 / SLICES)
        volume[mask], masks[organ] = brightness + 25 * texture(shape, generator)[mask], mask
    volume = np.stack([cv2.GaussianBlur(plane, (0, 0), 0.7) for plane in volume])
    return np.clip(volume + generator.normal(0, 12, shape), 0, 699).astype(np.uint16), masks


def runs(mask: np.ndarray) -> str:
    """RLE from left to right, then top to bottom, the first pixel 1; empty for an empty mask."""
    padded = np.concatenate([[False], mask.ravel(), [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(edges[::2], edges[1::2], strict=True))


def write(folder: Path, part: str, cases: tuple[int, ...], generator: np.random.Generator) -> pd.DataFrame:
    """The images of some cases; their table of id, class and segmentation."""
    rows = []
    for case in (f"case{number}" for number in cases):
        places = {organ: np.array(centre) + generator.normal(0, 0.03, 3) for organ, (centre, _, _) in ORGANS.items()}
        for day in sorted(generator.choice(30, DAYS, replace=False)):
            volume, masks = scan(places, generator)
            scans = folder / part / case / f"{case}_day{day}" / "scans"
            scans.mkdir(parents=True)
            for number, image in enumerate(volume):
                name, (height, width) = f"slice_{number + 1:04d}", image.shape
                cv2.imwrite(str(scans / f"{name}_{width}_{height}_1.50_1.50.png"), image)
                rows += [(f"{case}_day{day}_{name}", organ, runs(mask[number])) for organ, mask in masks.items()]
    return pd.DataFrame(rows, columns=["id", "class", "segmentation"])


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder, generator = Path(sys.argv[1]), np.random.default_rng(0)
    train, test = write(folder, "train", CASES, generator), write(folder, "test", TEST_CASES, generator)
    train.to_csv(folder / "train.csv", index=False)
    test[["id", "class"]].assign(predicted="").to_csv(folder / "sample_submission.csv", index=False)
    test.rename(columns={"segmentation": "predicted"}).to_csv(folder / "hidden_answers.csv", index=False)
    print(f"{len(train) // len(ORGANS)} training and {len(test) // len(ORGANS)} test slices in {folder}")


if __name__ == "__main__":
    main()
