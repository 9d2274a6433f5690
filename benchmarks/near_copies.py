"""How well near-duplicates are told from images that are only alike: false alarms, and recall per manipulation.

Copies made by each manipulation are added to drawn sets, most of whose images have structure alike, and all are
compared as `make_folds.py` does, each image in a fold of its own. A false alarm is a pair that does not come from one
drawn image.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.drawn_sets import SETS, SMALLEST, as_uint8, write
from benchmarks.workplace import one_thread
from projects import imported, source

EXAMPLES = """examples:
  python -m benchmarks.near_copies                                  every set, two minutes on one core
  python -m benchmarks.near_copies --only x-ray --planted 20        one set, twenty copies by each manipulation
"""
WIDTH = 140  # of the tables, where there is no terminal

Manipulation = Callable[[np.ndarray, Generator], np.ndarray]  # uint8 (H, W) or (H, W, 3), and so is the copy


def jpeg(quality: int) -> Manipulation:
    """Encode with loss."""

    def encode(image: np.ndarray, generator: Generator) -> np.ndarray:
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)

    return encode


def resize(factor: float, interpolation: int = cv2.INTER_AREA) -> Manipulation:
    """Resize both sides by a factor."""
    return lambda image, _: cv2.resize(image, None, fx=factor, fy=factor, interpolation=interpolation)


def crop(share: float) -> Manipulation:
    """Cut this share off the height and off the width, split between the sides by chance."""

    def cut(image: np.ndarray, generator: Generator) -> np.ndarray:
        height, width = (round(length * (1 - share)) for length in image.shape[:2])
        top = generator.integers(0, image.shape[0] - height + 1)
        left = generator.integers(0, image.shape[1] - width + 1)
        return image[top : top + height, left : left + width]

    return cut


def cut_side(image: np.ndarray, generator: Generator) -> np.ndarray:
    """Cut a tenth off the top or the bottom."""
    rows = round(0.1 * len(image))
    return image[rows:] if generator.random() < 0.5 else image[:-rows]


def caption(image: np.ndarray, generator: Generator) -> np.ndarray:
    """Write a line of text over the lower part."""
    copy, (height, width) = image.copy(), image.shape[:2]
    write(copy, "(c) photo 2021", int(0.05 * width), int(0.93 * height), width / 500, 255)
    return copy


def flip(image: np.ndarray, generator: Generator) -> np.ndarray:
    """Mirror left and right."""
    return image[:, ::-1]


def chain(*manipulations: Manipulation) -> Manipulation:
    """One after the other."""

    def apply(image: np.ndarray, generator: Generator) -> np.ndarray:
        for manipulate in manipulations:
            image = np.ascontiguousarray(manipulate(image, generator))
        return image

    return apply


MANIPULATIONS: dict[str, Manipulation] = {
    **{f"jpeg {quality}": jpeg(quality) for quality in (30, 50, 70, 95)},
    "resize 0.5": resize(0.5),
    "resize 0.7": resize(0.7),
    "resize 1.5": resize(1.5, cv2.INTER_LINEAR),
    "resize 2": resize(2, cv2.INTER_CUBIC),
    "resize 0.5, jpeg 50": chain(resize(0.5), jpeg(50)),
    "squash to a square": lambda image, _: cv2.resize(image, (150, 150), interpolation=cv2.INTER_AREA),
    **{f"crop {share}%": crop(share / 100) for share in (5, 10, 15, 20)},
    "cut 10% off a side": cut_side,
    "crop 10%, jpeg 70": chain(crop(0.1), jpeg(70)),
    "flip": flip,
    "flip, jpeg 50": chain(flip, jpeg(50)),
    "flip, crop 10%, jpeg 70": chain(flip, crop(0.1), jpeg(70)),
    "upside down": lambda image, _: image[::-1],
    "turn by 90": lambda image, _: np.rot90(image),
    "turn by 180": lambda image, _: np.rot90(image, 2),
    "paler": lambda image, _: as_uint8(image * 0.7 + 30),
    "brighter": lambda image, _: as_uint8(image * 1.1 + 15),
    "gamma 0.8": lambda image, _: as_uint8(255 * (image / 255) ** 0.8),
    "text": caption,
    "text, jpeg 70": chain(caption, jpeg(70)),
}


@dataclass(frozen=True)
class Outcome:
    """What was found in one set.

    Attributes:
        drawn: how many images were there before copies were added.
        false_alarms: how many of the pairs found do not come from one drawn image.
        recall: for each manipulation the share of its copies that were found with their original.
        seconds: how long the comparing took, without the pass that reads every image once.
    """

    drawn: int
    false_alarms: int
    recall: dict[str, float]
    seconds: float


def measure(
    images: Sequence[np.ndarray], manipulations: dict[str, Manipulation], planted: int, generator: Generator
) -> Outcome:
    """Add `planted` copies by each manipulation, and look for them.

    Args:
        images: uint8 (H, W) or (H, W, 3), no copies among them.

    `import pipeline` must find a rendered project's.
    """
    from pipeline.data.leaks import find_leaks
    from toolkit.audit.scan import scan
    from toolkit.images.readers import image as reader

    origins, made_by = list(range(len(images))), [""] * len(images)
    every = list(images)
    for name, manipulate in manipulations.items():
        for origin in generator.choice(len(images), planted, replace=False).tolist():
            every.append(np.ascontiguousarray(manipulate(images[origin], generator)))
            origins.append(origin)
            made_by.append(name)
    with tempfile.TemporaryDirectory(prefix="near-copies-") as temporary:
        folder, numbers = Path(temporary), np.arange(len(every))
        rows = pd.DataFrame({"fold": numbers, "id": numbers, "image": [f"{number}.png" for number in numbers]})
        for name, image in zip(rows["image"], every, strict=True):
            if not cv2.imwrite(str(folder / name), image):
                raise RuntimeError(f"{folder / name} could not be written")
        looks = scan([folder / name for name in rows["image"]], reader)
        began = time.perf_counter()
        report = find_leaks(rows, looks, folder, reader)
        seconds = time.perf_counter() - began
    pairs = list(zip(report.pairs["id_a"], report.pairs["id_b"], strict=True))
    found = Counter(made_by[b] for a, b in pairs if a == origins[b])
    false_alarms = sum(origins[a] != origins[b] for a, b in pairs)
    return Outcome(len(images), false_alarms, {name: found[name] / planted for name in manipulations}, seconds)


def print_outcomes(outcomes: dict[str, Outcome], planted: int, console: Console) -> None:
    """Print a table of the sets, and one of the recall per manipulation and set."""
    table = Table("set", title="near-duplicates", box=SIMPLE, collapse_padding=True)
    for column in ("images", "copies", "false alarms", "recall, %", "seconds"):
        table.add_column(column, justify="right")
    for name, one in outcomes.items():
        copies, recall = planted * len(one.recall), np.mean(list(one.recall.values()))
        numbers = (one.drawn, copies, one.false_alarms, f"{100 * recall:.0f}", f"{one.seconds:.1f}")
        table.add_row(name, *map(str, numbers))
    console.print(table)
    table = Table("recall, %", title="recall per manipulation", box=SIMPLE, collapse_padding=True)
    for name in outcomes:
        table.add_column(name.replace("-", "-\n"), justify="right")
    for manipulation in MANIPULATIONS:
        table.add_row(manipulation, *(f"{100 * one.recall[manipulation]:.0f}" for one in outcomes.values()))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.near_copies",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=SETS, metavar="SET", help=f"one of {', '.join(SETS)}")
    parser.add_argument("--planted", type=int, default=4, metavar="N", help="copies by each manipulation (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn and planted (default: 0)")
    chosen = parser.parse_args(arguments)
    if not 1 <= chosen.planted <= SMALLEST:
        parser.error(f"--planted {chosen.planted}: the smallest set has {SMALLEST} images; take 1 to {SMALLEST}")
    console, outcomes = Console(highlight=False), {}
    with one_thread(), imported(source().parent):
        for name in chosen.only or SETS:
            console.print(f"comparing: {name}")
            generator = np.random.default_rng(chosen.seed)
            outcomes[name] = measure(list(SETS[name](generator)), MANIPULATIONS, chosen.planted, generator)
    print_outcomes(outcomes, chosen.planted, console if console.is_terminal else Console(width=WIDTH))
    return 0


if __name__ == "__main__":
    sys.exit(main())
