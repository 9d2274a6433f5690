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
from torch.nn.parallel import DistributedDataParallel

from toolkit.errors import LAUNCHED, OthersFailed, UserError

T = TypeVar("T")
PATIENCE = timedelta(days=2)  # the main process may predict for hours; that another one died is the launcher's to see


@dataclass
class Processes:
    """Who takes part. Methods whose description says `all` must be called by all processes.

    Attributes:
        rank, size: this process's number among all, and how many there are.
        local_rank, local_size: the same on this machine; `local_rank` is also the number of its GPU.
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
        if self.size == 1:  # alone for a while, whatever its rank
            return rows
        return rows[len(rows) * self.rank // self.size : len(rows) * (self.rank + 1) // self.size]

    def gather(self, share: T) -> list[T]:
        """Gather what each of all has, small and on the CPU, in their order on the main one; none on the others."""
        if self.size == 1:
            return [share]
        shares: list[Any] | None = [None] * self.size if self.is_main else None
        distributed.gather_object(share, shares, dst=0)
        return shares or []

    def mean(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The means over all of some scalars, without their graph, on their device."""
        total = torch.stack([value.detach().double() for value in values])
        distributed.all_reduce(total)
        return [mean.to(value.dtype) for mean, value in zip(total / self.size, values, strict=True)]

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main process makes, for all of them."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.is_main else None]
        distributed.broadcast_object_list(box, src=0)
        made: T = box[0]
        return made

    def highest(self, number: int) -> int:
        """The largest of a number that each of all has."""
        if self.size == 1:
            return number
        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def maximum(self, values: Tensor) -> None:
        """Make each value of a tensor the largest that any of all has, in place and on its device."""
        if self.size > 1:
            distributed.all_reduce(values, distributed.ReduceOp.MAX)

    def copy_from_main(self, tensors: Iterator[Tensor]) -> None:
        """Make tensors of all equal those of the main process, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)

    def average_gradients(self, model: nn.Module) -> None:
        """Make each gradient the mean over all processes."""
        if self.size > 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.size

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """The module; among several processes DDP averages its gradients, and leaves out what is frozen by now."""
        if self.size == 1:
            return module
        # A frozen part, or a head without a loss, has no gradient to wait for.
        return DistributedDataParallel(module, find_unused_parameters=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, this process takes whole batches, and the others are not asked for anything."""
        size, self.size = self.size, 1
        try:
            yield
        finally:
            self.size = size


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Inside, this process is one of those that its environment tells of; only the main one prints.

    Raises:
        UserError: the environment names several processes, and not which one this is.
        OthersFailed: another process has ended, or cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE is {size} without {', '.join(missing)}; start with torchrun, or unset it")
    if LAUNCHED in os.environ:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if rank > 0:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    try:
        yield Processes(rank, size, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            reason = " ".join(str(error).split())[:400]
            raise OthersFailed(f"the processes that train together lost each other: {reason}") from error
        raise
    finally:
        distributed.destroy_process_group()


def _end_with_launcher() -> None:
    """A launcher that was killed must not leave processes behind that go on training: its pipe ends with it."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)
