"""The processes that train one fold together, one for each device. A single process pays nothing for any of this.

Each takes its share of every training batch, and its part of the held-out rows. What must be whole is gathered small
and late on the main process, which alone writes and prints. Processes are started by `toolkit.launch` or by torchrun,
which say in the environment who is who.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from toolkit.errors import LAUNCHED, UserError

T = TypeVar("T")
PATIENCE = timedelta(days=2)  # the main process may predict for hours; that another one died is the launcher's to see


@dataclass
class Processes:
    """Who takes part. Every method with `all` in its description must be called by all processes.

    Attributes:
        rank, size: this process's number among all, and how many there are.
        local_rank: its number on this machine, which is also that of its GPU.
        local_size: how many there are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's rows of a batch: neighbours, so that the shares in their order are the batch."""
        if self.size == 1:
            return rows
        return rows[len(rows) * self.rank // self.size : len(rows) * (self.rank + 1) // self.size]

    def gather(self, share: T) -> list[T]:
        """What each process has, in their order, on the main one; nothing on the others. All call it.

        Args:
            share: small, and on the CPU: it is pickled.
        """
        if self.size == 1:
            return [share]
        shares: list[Any] | None = [None] * self.size if self.is_main else None
        distributed.gather_object(share, shares, dst=0)
        return shares or []

    def mean(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The means over the processes of some scalars, without their graph, on their device. All call it."""
        if self.size == 1:
            return list(values)
        total = torch.stack([value.detach().double() for value in values])
        distributed.all_reduce(total)
        return [mean.to(value.dtype) for mean, value in zip(total / self.size, values, strict=True)]

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main process makes, for all of them. All call it."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.is_main else None]
        distributed.broadcast_object_list(box, src=0)
        made: T = box[0]
        return made

    def highest(self, number: int) -> int:
        """The largest of a number that each has. All call it."""
        if self.size == 1:
            return number
        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def copy_from_main(self, tensors: Iterator[Tensor]) -> None:
        """Make tensors equal those of the main process, in place. All call it."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)

    def average_gradients(self, model: nn.Module) -> None:
        """Make each gradient the mean of those of all processes. All call it."""
        if self.size > 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.size

    def wait(self) -> None:
        """Go on once all are here. All call it."""
        self.highest(0)

    def lost(self, error: BaseException) -> bool:
        """Whether an error says no more than that another process has ended."""
        is_network = isinstance(error, distributed.DistError) or "gloo" in str(error)
        return self.size > 1 and isinstance(error, RuntimeError) and is_network

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, this process takes whole batches, and the others are not asked for anything."""
        size, self.size = self.size, 1
        try:
            yield
        finally:
            self.size = size


ALONE = Processes()


def start_processes() -> Processes:
    """Join the other processes, if there are any. Only the main one prints.

    Raises:
        UserError: the environment names several processes, and not which one this is.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {size} in the environment, and {', '.join(missing)} not set; start with torchrun, or "
            "unset it"
        )
    if LAUNCHED in os.environ:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if rank > 0:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    return Processes(rank, size, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", size)))


def end_processes() -> None:
    """Part from the other processes, if there are any."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _end_with_launcher() -> None:
    """A launcher that was killed must not leave processes behind that go on training: its pipe ends with it."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)
