"""Loaders whose randomness is a function of (seed, epoch, row, turn), not of a worker's history.

The sampler hands out (epoch, row, turn), where the turn counts from 0 how often that row came before in the epoch, and
the dataset reseeds its augmentations from the three: the number of workers changes nothing, an epoch can start at any
batch, and a row that is shown twice looks different each time.
"""

import bisect
import functools
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils import signal_handling

from pipeline.data.collate import prepare_worker, shared_batch
from pipeline.types import Batch, Index
from toolkit.distributed import ALONE, Processes
from toolkit.errors import UserError

# Torch would raise for a dead worker amid a step, where nothing can be saved; where a batch is waited for, it looks.
signal_handling._SIGCHLD_handler_set = True
Order = Callable[[pd.DataFrame, np.random.Generator], np.ndarray]


class TrainBatches(Sampler[list[Index]]):
    """Batches of (epoch, row, turn) from any batch of any epoch on. The last rows that fill no batch are left out.

    Args:
        order: positions of rows for an epoch, given the rows and the epoch's own generator; as many in each epoch.
        batch_size: of all `processes` together, which have shares of one size.
    """

    def __init__(
        self, rows: pd.DataFrame, order: Order, batch_size: int, seed: int, processes: Processes = ALONE
    ) -> None:
        self.rows, self.order, self.seed, self.processes = rows, order, seed, processes
        self.epoch = self.start = 0
        self.rows_per_epoch, size = len(self._positions(0)), processes.size
        self.batch_size = min(batch_size, self.rows_per_epoch // size * size)
        if batch_size % size or not self.batch_size:
            raise UserError(
                f"{size} processes share each batch of training.batch_size {batch_size}, of {self.rows_per_epoch} rows "
                f"an epoch; choose a multiple of {size}, or set machine.devices to fewer"
            )
        self.batches_per_epoch = self.rows_per_epoch // self.batch_size

    def begin(self, epoch: int, start: int) -> None:
        """The next iteration gives the batches of `epoch` from `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.batches_per_epoch - self.start

    def __iter__(self) -> Iterator[list[Index]]:
        epoch = self.epoch
        order = self._positions(epoch)
        if len(order) != self.rows_per_epoch:
            found = f"{len(order)} rows in epoch {epoch + 1} and gave {self.rows_per_epoch} in the first"
            raise UserError(f"the sampler gives {found} one; it must give as many in each, for schedule and resume")
        turns = pd.Series(order).groupby(order).cumcount().to_numpy()  # how often each row came before, int64 (N,)
        for batch in range(self.start, self.batches_per_epoch):
            positions = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield [(epoch, int(order[k]), int(turns[k])) for k in self.processes.share(positions)]

    def _positions(self, epoch: int) -> np.ndarray:
        order, count = np.asarray(self.order(self.rows, np.random.default_rng([self.seed, epoch]))), len(self.rows)
        is_order = order.ndim == 1 and order.size and order.dtype.kind in "iu"
        if not is_order or order.min() < 0 or order.max() >= count:
            found = f" from {order.min()} to {order.max()}" if is_order else ""
            raise UserError(
                f"the sampler gave {order.dtype} {order.shape}{found}; whole numbers (N,) are expected, positions of "
                f"the rows from 0 to {count - 1}"
            )
        return order


class RowBatches(Sampler[list[Index]]):
    """Every sample once, in the order of the table; several processes have neighbours each, in as many batches.

    Args:
        batch_size: of all processes together, which have parts of about one size.
        starts: the samples with which a row begins, which no two processes share; none: every one.
    """

    def __init__(
        self, count: int, batch_size: int, processes: Processes = ALONE, starts: Sequence[int] | None = None
    ) -> None:
        self.count, self.batch_size, self.processes = count, batch_size, processes
        self.starts = range(count) if starts is None else starts
        self._batches()

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[list[Index]]:
        for batch in self._batches():
            yield [(0, row) for row in batch]

    def _batches(self) -> list[range]:
        """Those of this process, made anew each time: the main one finishes a fold alone."""
        count, size, starts = self.count, self.processes.size, self.starts
        if size == 1 or not count:
            return [range(start, min(start + self.batch_size, count)) for start in range(0, count, self.batch_size)]
        bounds = [*starts, count]
        edges = [bounds[bisect.bisect_left(starts, count * rank // size)] for rank in range(size)]
        sizes = [end - start for start, end in itertools.pairwise([*edges, count])]
        share = max(1, self.batch_size // size)
        batches = min(-(-max(sizes) // share), min(sizes))
        if not batches or -(-max(sizes) // batches) > 2 * share:
            raise UserError(
                f"{len(starts)} rows are held out for {size} processes, too few for parts of about one size; set "
                "machine.devices to fewer"
            )
        rank = self.processes.rank
        cuts = [edges[rank] + sizes[rank] * k // batches for k in range(batches + 1)]
        return [range(*pair) for pair in itertools.pairwise(cuts)]


class EpochBatches:
    """One loader's batches for the rest of an epoch, on the device, with their number known.

    As a context it ends the loader's processes, which would otherwise live as long as the program.
    """

    def __init__(self, loader: "DataLoader[dict[str, Any]]", device: torch.device) -> None:
        self.loader, self.device = loader, device
        self.running: Generator[Batch, None, None] | None = None
        self.ahead: Iterator[Batch] | None = None  # the next iteration, and where it begins
        self.begins_at: tuple[int, int] | None = None
        self.waits: list[float] = []  # seconds for each batch of the running epoch

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def waited(self) -> float:
        """Seconds for which the model had nothing to do; the first batch, for which the workers start, is left out."""
        return sum(self.waits[1:])

    def __iter__(self) -> Iterator[Batch]:
        ahead, self.ahead = self.ahead, None
        if ahead is not None and self.begins_at == self._position():
            return ahead
        self.running = self._batches(self.loader)
        return self.running

    def start(self) -> None:
        """Let the loader's processes, if it has any, read for the next iteration before that is asked for."""
        if self.loader.num_workers:
            self.ahead = self.running = self._batches(iter(self.loader))
            self.begins_at = self._position()

    def wait(self) -> None:
        """Wait for the first batch of what was started."""
        if self.ahead is not None:
            self.ahead = itertools.chain(list(itertools.islice(self.ahead, 1)), self.ahead)

    def __enter__(self) -> "EpochBatches":
        return self

    def __exit__(self, *_: object) -> None:
        if self.running is not None:
            self.running.close()
        del self.loader, self.running, self.ahead

    def _position(self) -> tuple[int, int] | None:
        batches = self.loader.batch_sampler
        return (batches.epoch, batches.start) if isinstance(batches, TrainBatches) else None

    def _batches(self, batches: Iterable[Batch]) -> Generator[Batch, None, None]:
        try:
            if self.device.type == "cuda":
                batches = prefetched(batches, self.device)
            elif self.device.type != "cpu":
                batches = (to_device(batch, self.device) for batch in batches)
            self.waits, began = [], time.perf_counter()
            for batch in batches:
                self.waits.append(time.perf_counter() - began)
                yield batch
                signal_handling._error_if_any_worker_fails()
                began = time.perf_counter()
        except UserError as error:
            # A worker's exception arrives with its whole traceback as text; the user needs its last line.
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from error


def prefetched(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on a GPU; each is copied, on a stream of its own, while the one before it is computed on."""
    copies, ahead = torch.cuda.Stream(device), list[Batch]()
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = to_device(batch, device)
        yield from ahead
        torch.cuda.current_stream(device).wait_stream(copies)
        for value in moved.values():
            if isinstance(value, torch.Tensor):
                value.record_stream(torch.cuda.current_stream(device))  # or its memory could be given away too early
        ahead = [moved]
    yield from ahead


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`; lists of strings stay where they are."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def make_loader(
    dataset: Dataset[dict[str, Any]],
    batches: Sampler[list[Index]],
    collate: Callable[[list[dict[str, Any]]], Batch],
    workers: int | None,
    device: torch.device,
) -> "DataLoader[dict[str, Any]]":
    """A loader over batches of (epoch, row, turn); its workers live as long as the loader."""
    count = default_workers() if workers is None else workers
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=functools.partial(shared_batch, collate) if count else collate,
        num_workers=count,
        persistent_workers=count > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=prepare_worker if count else None,
    )


def default_workers() -> int:
    """One process per core that this process may use, at most eight; none on a single core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes that train beside this one
    return min(cores, 8) if cores > 1 else 0
