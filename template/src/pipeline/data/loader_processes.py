"""What a loader's processes do: how they begin, and how their batches come to the main process."""

import functools
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import queues
from typing import Any

import numpy as np
import torch

from pipeline.types import Batch


def prepare_worker(_worker: int) -> None:
    """What a loader process does first.

    Worker processes already use every core, and OpenCV's own threads would only fight them. Ctrl-C reaches the whole
    group of processes: the main one saves its state and ends its workers itself. SIGTERM is how it does that, so the
    handler inherited from it must go.
    """
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, _item: object) -> None:
    """A batch that cannot be handed on would be waited for for ever: the process ends, which the main one sees."""
    print(f"note: a process of the loader cannot hand on its batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)


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
    if type(value) in (list, tuple) and not all(isinstance(item, str) for item in value):
        return type(value)(_shared(item) for item in value)
    return value


class ThroughPipe:
    """A tensor that reaches the main process as bytes in a pipe, where it is a tensor again."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
        content = self.value.contiguous().reshape(-1).view(torch.uint8).numpy()
        return _from_pipe, (content, self.value.dtype, self.value.shape)


def _from_pipe(content: np.ndarray, dtype: torch.dtype, shape: torch.Size) -> torch.Tensor:
    _say_once(
        "note: /dev/shm has no room for the batches of the loader's processes, so they come through pipes, which is "
        "slower; enlarge it (docker run --shm-size=8g), or lower machine.workers"
    )
    return torch.from_numpy(content).view(dtype).reshape(shape)


@functools.cache
def _say_once(note: str) -> None:
    print(note, file=sys.stderr, flush=True)
