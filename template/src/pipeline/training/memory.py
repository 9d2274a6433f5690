"""Too little memory of the GPU: found out before the first epoch, and told with what would fit."""

import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.loader import to_device
from pipeline.inference.device import GIB, is_out_of_memory, memory_words
from pipeline.training.model import freeze
from pipeline.training.trainer import Trainer
from toolkit.errors import UserError


@contextmanager
def explained(trainer: Trainer) -> Iterator[None]:
    """Say what was asked for, what is there and what would fit, as a `UserError`, where the GPU's memory ends."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        less = " or ".join(remedies(trainer)) or "a smaller model.encoder"
        raise UserError(f"{memory_words(trainer.device, error)}; what needs less: {less}") from error


def remedies(trainer: Trainer) -> list[str]:
    """Settings that need less memory, as they are typed: each by itself, the ones that change the least first."""
    now, processes, found = trainer.parts["train"].config, trainer.processes.size, []
    half = trainer.phases.batches.batch_size // 2 // processes * processes
    if half:
        found.append(f"training.batch_size={half} training.accumulate={2 * now.training.accumulate}")
    encoders: list[Any] = [each for each in trainer.model.modules() if hasattr(each, "set_grad_checkpointing")]
    if encoders and not now.model.grad_checkpointing:
        with suppress(AssertionError, NotImplementedError):  # timm has the method for all, and not every encoder can
            encoders[0].set_grad_checkpointing(True)
            found.append("model.grad_checkpointing=true")
    height, width = (max(32, 32 * round(side / 2**0.5 / 32)) for side in now.image.size)  # half as many pixels
    if (height, width) < now.image.size:
        found.append(f"image.size={height if height == width else f'[{height},{width}]'}")
    return found


def try_step(trainer: Trainer) -> None:
    """Run a training step and its backward pass before the first batch is waited for, and leave no trace of it.

    It is the largest of all phases, and then that of the phase to come, whose kernels are chosen and compiled by it.
    What the optimiser has not made yet is counted in. What fails but for memory is told by the first step.
    """
    device, now, configs = trainer.device, trainer.progress.epoch, trainer.setup.epoch_configs
    if device.type == "cpu":
        return
    began, module = time.monotonic(), torch.get_device_module(device)
    if hasattr(module, "reset_peak_memory_stats"):
        module.reset_peak_memory_stats(device)
    sizes = {k: (math.prod(configs[k].image.size), -len(configs[k].model.frozen)) for k in range(now, trainer.epochs)}
    groups = [] if trainer.optimizer.state else trainer.optimizer.param_groups
    ahead = [torch.empty_like(one) for group in groups for one in moments(group)]
    for epoch in dict.fromkeys((max(sizes, key=lambda k: sizes[k]), now)):
        trainer.parts["train"] = trainer.phases.at(epoch)
        _run(trainer)
    module.synchronize()
    del ahead
    said = f"first step tried in {time.monotonic() - began:.1f} s"
    if hasattr(module, "mem_get_info"):
        need, total = module.max_memory_allocated(device), module.mem_get_info(device)[1]
        said += f": {need / GIB:.1f} of {total / GIB:.1f} GiB"
    print(said, flush=True)


def moments(group: dict[str, Any]) -> list[Tensor]:
    """The parameters of a group, as often as its optimiser will remember something of their size."""
    times = 2 if "betas" in group else int(group.get("momentum", 0) > 0)
    return [parameter for parameter in group["params"] if parameter.requires_grad] * times


def _run(trainer: Trainer) -> None:
    """A step on a batch of the usual size, made of a few rows of the first one."""
    model, part = trainer.model, trainer.parts["train"]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([trainer.device] if trainer.device.type == "cuda" else []):
        try:
            indices = next(iter(trainer.phases.batches))
            dataset, spread = part.loader.loader.dataset, indices[:: -(-len(indices) // 8)]
            few = [dataset[index] for index in spread]
            samples = [dict(few[k % len(few)]) for k in range(len(indices))]
            model.train()
            freeze(model.network, part.config.model)
            batch = to_device(trainer.task.collate(samples), trainer.device)
            for _ in range(min(2, part.config.training.accumulate)):  # the second one beside the gradients of the first
                trainer.run_step("train", batch)["loss"].backward()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            print(f"note: the first step could not be tried before the first epoch ({type(error).__name__})")
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            model.zero_grad(set_to_none=True)
            model.network.requires_grad_(True)  # as `make_model` leaves it
            with torch.no_grad():
                for name, value in model.named_buffers():
                    value.copy_(buffers[name])
