"""Training steps fed by the loader, over the same steps on one batch that stays on the device.

What is missing to a ratio of 1 is the time in which the device waits for data. On a GPU the networks are those that the
question is usually asked of; on a CPU a small one shows only that the row can be measured, since loader and network
share its cores.
"""

import dataclasses
import time
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.input_pipeline import write_photographs
from benchmarks.measure import Aim, Effort, Row, beside, in_turns
from benchmarks.workplace import Workplace, quiet

AIM = Aim("at least", 0.95)
PEER = "one batch on the device"
STEPS = 20  # in a turn
ON_GPU = (("convnext_tiny", 224, 64), ("resnet50", 224, 64))  # encoder, image size, batch size
ON_CPU = (("resnet10t", 64, 16),)


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """A row for each network, with and without the cache; on a GPU compiled as well."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    where = torch.cuda.get_device_name() if gpu else "CPU"
    rows = []
    with place.pipeline():
        for encoder, size, batch_size in ON_GPU if gpu else ON_CPU:
            for compiled in (False, True) if gpu else (False,):
                for cache in (False, True):
                    with quiet():
                        fed = Fed(place, encoder, size, batch_size, cache, compiled, device)
                        calls = {"ours": partial(fed.turn, True), "peer": partial(fed.turn, False)}
                        in_turns(calls, 2)  # starts the processes, and compiles
                        rates = in_turns(calls, effort.image_rounds)
                        fed.close()
                    how = ", ".join(["cache" if cache else "decoding", *(["compiled"] if compiled else [])])
                    name = f"{encoder} {size} px, {how}"
                    note = f"feed: batches of {batch_size}, {fed.precision}, on {where}"
                    aim = AIM if gpu else None
                    rows.append(beside("feed", name, PEER, "/s", rates["ours"], rates["peer"], aim, note))
    return rows


class Fed:
    """A network that trains on photographs, by turns from the loader and on a batch that is there."""

    def __init__(
        self,
        place: Workplace,
        encoder: str,
        size: int,
        batch_size: int,
        cache: bool,
        compiled: bool,
        device: torch.device,
    ) -> None:
        from pipeline.data.cache import open_cache
        from pipeline.data.loader import EpochBatches, TrainBatches, make_loader
        from pipeline.data.samplers import shuffle
        from pipeline.inference.device import choose_precision
        from pipeline.training.optimizer import make_optimizer

        folder = place.folder / "photographs"
        files = write_photographs(folder)
        settings = [f"image.size={size}", f"image.cache={str(cache).lower()}", f"model.encoder={encoder}"]
        setup = place.setup("baseline", [*settings, "model.pretrained=false"])
        head = setup.task.heads[0]
        count = STEPS * batch_size
        rows = pd.DataFrame(
            {
                "id": [f"{number:05d}" for number in range(count)],
                "image": np.resize(np.array(files, dtype=object), count),
                head.name: np.resize(np.array(head.classes, dtype=object), count),
            }
        )
        reader = open_cache(dataclasses.replace(setup.project, data=folder), setup.config, setup.names, rows)
        dataset = setup.task.dataset(rows, folder, setup.config, setup.names, "train", reader)
        self.batches = TrainBatches(rows, shuffle, batch_size, seed=0)
        loader = make_loader(dataset, self.batches, setup.task.collate, setup.config.machine.workers, device)
        self.loader = EpochBatches(loader, device)
        self.device, self.batch_size, self.epoch = device, batch_size, 0
        self.precision = choose_precision("auto", device)
        self.model = setup.task.model(setup.config, setup.names, pretrained=False).to(device)
        if device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        if compiled:
            self.model.network.compile(dynamic=False)
        self.optimizer = make_optimizer(self.model, setup.config.optimizer, setup.names, fused=self.precision != "fp16")
        self.criterion = setup.task.criterion(setup.config.losses, setup.names, rows).to(device)
        self.step = setup.names.bind("step", setup.config.step)
        self.there: dict[str, Any] | None = None

    def turn(self, fed: bool) -> float:
        """Images per second over an epoch from the loader, or over as many steps on the batch that is there."""
        from pipeline.data.loader import to_device

        self.batches.begin(self.epoch, 0)
        self.epoch += 1
        if self.there is None:
            self.there = to_device(next(iter(self.loader)), self.device)
            self.batches.begin(self.epoch, 0)
        self._wait()
        began = time.perf_counter()
        for batch in self.loader if fed else [self.there] * STEPS:
            self._train(to_device(batch, self.device))
        self._wait()
        return STEPS * self.batch_size / (time.perf_counter() - began)

    def close(self) -> None:
        """End the loader's processes."""
        self.loader.__exit__()

    def _train(self, batch: dict[str, Any]) -> None:
        from pipeline.inference.device import autocast
        from pipeline.types import StepContext

        context = StepContext("train", self.epoch, 0, 0, self.criterion)
        with autocast(self.device, self.precision):
            loss = self.step(batch, self.model, context)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
