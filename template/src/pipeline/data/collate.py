"""Samples as a batch, what is in it, and how it comes from a loader's process to the main one."""

import functools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing import queues
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import INPUT_IMAGE
from pipeline.types import Batch
from toolkit.errors import UserError


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Stack arrays and numbers into tensors, keep strings as lists."""
    batch: Batch = {key: [sample[key] for sample in samples] for key in samples[0]}
    for key, values in batch.items():
        if not isinstance(values[0], str):
            batch[key] = torch.from_numpy(np.stack(values))
    return batch


def contract_rows(batch: Batch, outputs: Mapping[str, Tensor]) -> list[tuple[str, str, str, str]]:
    """Rows of (key, dtype, shape, role); images of another form than (B, H, W, C), uint8 or float32, are refused."""
    image = batch[INPUT_IMAGE]
    if image.ndim != 4 or image.dtype not in (torch.uint8, torch.float32):
        raise UserError(f"'{INPUT_IMAGE}' is {image.dtype} {tuple(image.shape)}, not uint8 or float32 (B, H, W, C)")
    rows = []
    for role, values in (("batch", batch), ("output", outputs)):
        for key, value in values.items():
            shape = str(tuple(value.shape)) if isinstance(value, Tensor) else f"{len(value)} strings"
            rows.append((key, str(getattr(value, "dtype", "str")).removeprefix("torch."), shape, role))
    return rows


def prepare_worker(_worker: int) -> None:
    """What a loader process does first.

    Worker processes already use every core, and OpenCV's own threads would only fight them. Ctrl-C reaches the whole
    group of processes: the main one saves its state and ends its workers itself. SIGTERM is how it does that, so the
    handler inherited from it must go. A batch that cannot be handed on would be waited for for ever: the process ends,
    which the main one sees.
    """
    import cv2

    def end(error: Exception, _item: object) -> None:
        print(f"note: a process of the loader cannot hand on its batch: {error}", file=sys.stderr, flush=True)
        os._exit(1)

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    queues.Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


def shared_batch(collate: Callable[[list[dict[str, Any]]], Batch], samples: list[dict[str, Any]]) -> Batch:
    """A batch in a loader process, in shared memory as far as there is room for it."""
    return {key: _shared(value) for key, value in collate(samples).items()}


def _shared(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        try:
            return value.share_memory_()
        except RuntimeError:  # no room in /dev/shm, or too many files are open
            return ThroughPipe(value)
    if isinstance(value, dict):
        return {key: _shared(item) for key, item in value.items()}
    return type(value)(map(_shared, value)) if type(value) in (list, tuple) else value


class ThroughPipe:
    """A tensor that reaches the main process as bytes in a pipe, where it is a tensor again."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
        return _from_pipe, (self.value.numpy(),)


def _from_pipe(content: np.ndarray) -> torch.Tensor:
    _note_pipes()
    return torch.from_numpy(content)


@functools.cache
def _note_pipes() -> None:
    what = "/dev/shm has no room for the batches of the loader's processes, so they come through pipes, which is slower"
    remedy = "enlarge it (docker run --shm-size=8g), or lower machine.workers"
    print(f"note: {what}; {remedy}", file=sys.stderr, flush=True)
