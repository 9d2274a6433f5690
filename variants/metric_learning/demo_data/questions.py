"""What the demo competition asks of the digits: whose they are. Every identity writes one digit, in ink of its own.

40 identities have many images, 10 have a single one, which trains, and those of 10 more are labelled as unknown where
the demo is the competition of the project.
"""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import pandas as pd

from demo_data.digits import SEED, TEST_ROWS, digits, order
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings

TASK = "metric_learning"
INKS = {"red": 0, "yellow": 30, "green": 60, "blue": 105, "pink": 145}  # hues, of 180
RARE = {"mint": 82}  # the ink of those with a single image
SPREAD = 6.0  # of the hues of one ink, to both sides
SATURATION = 200
DEMO, UNKNOWN = "digits-demo", "new_digit"


def _inks() -> np.ndarray:
    """int64 (N,): the number of each image's ink; that of the rare one is the last."""
    numbers, trains = digits().target, order()[:-TEST_ROWS]
    inks = np.random.default_rng(SEED).integers(0, len(INKS), len(numbers))
    for digit in range(10):
        inks[trains[numbers[trains] == digit][0]] = len(INKS)
    return inks


def truth(settings: Settings) -> pd.DataFrame:
    """A column of names per target."""
    inks = _inks()
    colors = [*INKS, *RARE]
    names = np.array([f"{colors[ink]}_{digit}" for digit, ink in zip(digits().target, inks, strict=True)], object)
    if settings.competition == DEMO:  # the word of a real competition is another one, or it has none
        names[((digits().target + inks) % len(INKS) == 0) & (inks < len(INKS))] = UNKNOWN
    return pd.DataFrame(dict.fromkeys(settings.target_columns, names))


def painted(images: Iterable[np.ndarray], numbers: np.ndarray) -> Iterator[np.ndarray]:
    """The images, uint8 (H, W), of the digits with these numbers, each in its ink: uint8 (H, W, 3), blue first."""
    hues = np.array([*INKS.values(), *RARE.values()])[_inks()]
    for pixels, number in zip(images, numbers, strict=True):
        hue = round(hues[number] + SPREAD * np.random.default_rng([SEED, int(number)]).uniform(-1, 1)) % 180
        ink = np.stack([np.full_like(pixels, hue), np.full_like(pixels, SATURATION), pixels], axis=2)
        yield cv2.cvtColor(ink, cv2.COLOR_HSV2BGR)


def sample(answers: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """A constant prediction: as many labels as the metric looks at, or one and its score."""
    metric = find_metric(settings.metric)
    names = pd.Index(answers[settings.target_columns[0]]).unique()[: metric.top_k]
    value = f"{names[0]} 0.5" if metric.name == "gap" else " ".join(names)
    return pd.DataFrame(dict.fromkeys(settings.target_columns, value), index=answers.index)
