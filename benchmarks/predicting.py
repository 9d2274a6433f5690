"""Prediction by five models on four views of photographs, over the naive loop, and over what has to be done at least.

The naive loop takes a model after another and a view after another, each with a loader of its own. What has to be done
is decoding each image once, and the bare forward passes of all models on all views. A network of a few layers on few
pixels is as fast beside the decoding as a large one is on a GPU.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.input_pipeline import write_photographs
from benchmarks.measure import Aim, Effort, Row, beside, in_turns
from benchmarks.workplace import Workplace, quiet

NAIVE, LEAST = Aim("at least", 3.0), Aim("at most", 1.1)
FLIPS = ((), (2,), (1,), (1, 2))  # of images (B, H, W, C): as they are, hflip, vflip, rot180
MODELS, BATCH = 5, 16
SETTINGS = ["image.size=48", "model.encoder=test_resnet", "model.pretrained=false", "tta=[hflip, vflip, rot180]"]
ORDINARY = [f"machine.valid_batch_size={BATCH}", "machine.workers=0", "machine.device=cpu", "training.precision=fp32"]


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """Images per second over the naive loop's, and seconds over those of one decoding and the bare passes."""
    with place.pipeline(), quiet():
        case = Case(place, effort.images)
        calls: dict[str, Callable[[], float]] = {"ours": case.ours, "naive": case.naive, "least": case.least}
        in_turns(calls, 1)
        seconds = in_turns(calls, effort.image_rounds)
    note = f"predict: {MODELS} models of test_resnet on {len(FLIPS)} views of {effort.images} JPEGs to 48 px, on a CPU"
    rates = {name: [effort.images / each for each in values] for name, values in seconds.items()}
    return [
        beside("predict", "5 folds x 4 views", "naive loop", "/s", rates["ours"], rates["naive"], NAIVE, note),
        beside("predict", "of the same", "one decoding + passes", "s", seconds["ours"], seconds["least"], LEAST, note),
    ]


class Case:
    """Photographs, models, and three ways to predict."""

    def __init__(self, place: Workplace, count: int) -> None:
        self.folder = place.folder / "photographs"
        files = write_photographs(self.folder)
        self.setup: Any = place.setup("baseline", [*SETTINGS, *ORDINARY])
        images = np.resize(np.array(files, dtype=object), count)
        self.rows = pd.DataFrame({"id": [f"{number:05d}" for number in range(count)], "image": images})
        task, config, names = self.setup.task, self.setup.config, self.setup.names
        self.models = [task.model(config, names, pretrained=False).eval() for _ in range(MODELS)]
        self.key = task.heads[0].output_key

    def ours(self) -> float:
        """Seconds."""
        from pipeline.inference.predict import predict_rows

        task, config, names = self.setup.task, self.setup.config, self.setup.names
        began = time.perf_counter()
        predict_rows(task, self.models, self.rows, self.folder, config, names, "test", "test")
        return time.perf_counter() - began

    def naive(self) -> float:
        """Seconds."""
        began = time.perf_counter()
        found = [
            [self._passes(batch, [model], [flip]) for batch in self._loader()]
            for model in self.models
            for flip in FLIPS
        ]
        np.mean([np.concatenate([part for [part] in parts]) for parts in found], axis=0)
        return time.perf_counter() - began

    def least(self) -> float:
        """Seconds."""
        began = time.perf_counter()
        for batch in self._loader():
            self._passes(batch, self.models, FLIPS)
        return time.perf_counter() - began

    def _loader(self) -> Any:
        task, config, names = self.setup.task, self.setup.config, self.setup.names
        dataset = task.dataset(self.rows, self.folder, config, names, "test")
        return torch.utils.data.DataLoader(dataset, batch_size=BATCH, collate_fn=task.collate)

    @torch.inference_mode()
    def _passes(self, batch: dict[str, Any], models: Any, flips: Any) -> list[np.ndarray]:
        views = [{**batch, "input_image": batch["input_image"].flip(flip).contiguous()} for flip in flips]
        return [model(view)[self.key].softmax(1).numpy() for model in models for view in views]
