"""Samples to a batch: HWC uint8 as the pipeline's images travel, beside normalised float32 CHW tensors."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import default_collate

from benchmarks.measure import Aim, Effort, Row, alone, beside, in_turns
from benchmarks.workplace import Workplace

AIM = Aim("at most", 0.8)
BATCH, SIZE = 32, 256


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """Milliseconds for a batch of 32 images of 256 px."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(BATCH)]
    floats = [torch.from_numpy(image).permute(2, 0, 1).float().contiguous() for image in images]
    with place.pipeline():
        from pipeline.data.collate import collate
        from pipeline.keys import INPUT_ID, INPUT_IMAGE, INPUT_ROW, INPUT_WEIGHT

        samples = [
            {INPUT_ID: str(number), INPUT_ROW: np.int64(number), INPUT_IMAGE: image, INPUT_WEIGHT: np.float32(1)}
            for number, image in enumerate(images)
        ]
        pairs = [(image, number) for number, image in enumerate(floats)]
        functions = {
            "ours": lambda: _milliseconds(lambda: collate(samples)),
            "peer": lambda: _milliseconds(lambda: default_collate(pairs)),
        }
        in_turns(functions, 2)
        times = in_turns(functions, effort.collate_rounds)
    name, peer = f"collate {BATCH} x {SIZE} px", "default_collate, float32"
    return [
        beside("collate", name, peer, "ms", times["ours"], times["peer"]),
        alone("collate", f"{name}, uint8", "ms", times["ours"], AIM),
    ]


def _milliseconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - began)
