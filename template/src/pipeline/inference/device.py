"""Where to compute and in which precision, by what the device really supports; and what to do where its memory ends."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.keys import INPUT_ID
from pipeline.types import Batch, Precision
from toolkit.errors import GPU_MEMORY, UserError

T = TypeVar("T")
GIB = 2**30


def choose_device(asked: str, number: int | None = None) -> torch.device:
    """The device for `machine.device`, a GPU by its number, none: that of this process; `auto` takes a usable one where
    there is one. A `UserError` where the device is not there, or the installed torch has no kernels for it."""
    number = int(os.environ.get("LOCAL_RANK", "0")) if number is None else number
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(asked)
    if backend is not None and not backend.is_available():
        raise UserError(f"machine.device is {asked}, and torch finds none here; set machine.device=auto")
    if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()):
        if number >= torch.cuda.device_count():
            finds = f"process {number + 1} of this machine finds {torch.cuda.device_count()} GPU"
            raise UserError(f"{finds}; set machine.devices to as many as there are")
        problem = unusable_gpu(number)
        if problem is None:
            torch.cuda.set_device(number)
            return torch.device("cuda", number)
        if asked == "cuda":
            raise UserError(problem)
        print(f"note: {problem}; going on with the CPU")
    return torch.device("mps" if asked == "mps" else "cpu")


def unusable_gpu(number: int = 0) -> str | None:
    """Why a GPU cannot be used, or none. `is_available()` alone is true for a GPU this torch has no kernels for."""
    major, minor = torch.cuda.get_device_capability(number)
    for architecture in torch.cuda.get_arch_list():  # "sm_90a" is a binary; "compute_90" fits all that is newer as well
        kind, _, version = architecture.rstrip("af").partition("_")
        built = divmod(int(version or 0), 10)
        if built <= (major, minor) and (kind == "compute" or built[0] == major):
            return None
    name = f"{torch.cuda.get_device_name(number)} (sm_{major}{minor})"
    return f"the installed torch {torch.__version__} has no kernels for {name}; install one that has"


def choose_precision(asked: str, device: torch.device) -> Precision:
    """The precision for `training.precision` on `device`; a `UserError` for half where it would only be emulated."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if asked == "auto":
            return "bf16" if has_bf16 else "fp16"
        if asked == "bf16" and not has_bf16:
            raise UserError(f"{torch.cuda.get_device_name()} has no bf16; set training.precision to auto or fp16")
    elif asked == "fp16":
        raise UserError(f"training.precision fp16 needs a GPU and the device is {device.type}; set it to auto")
    return "bf16" if asked == "bf16" else "fp16" if asked == "fp16" else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a model computes at `precision`."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use torch's deterministic algorithms inside, if `wanted`, from before CUDA starts; name what has none."""
    if not wanted:
        yield
        return
    named, show = set[str](), warnings.showwarning

    def name(message: Warning | str, *others: Any, **more: Any) -> None:
        operation, is_it, _ = str(message).partition(" does not have a deterministic implementation")
        if not is_it:
            show(message, *others, **more)
        elif operation not in named:
            named.add(operation)
            print(f"note: machine.deterministic: {operation} has no deterministic algorithm; two runs may differ by it")

    workspace, mode = os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.get_deterministic_debug_mode()
    before = cudnn.deterministic, cudnn.benchmark
    # Where a warning is all that is asked for, fast attention is not deterministic.
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.filterwarnings("default", ".* does not have a deterministic implementation")
        warnings.showwarning = name  # type: ignore[assignment]
        try:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace or ":4096:8"
            torch.use_deterministic_algorithms(True, warn_only=True)
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before
            torch.set_deterministic_debug_mode(mode)
            if workspace is None:
                del os.environ["CUBLAS_WORKSPACE_CONFIG"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU has too little memory. Apple's and cuBLAS have no type of error for it: their words say it."""
    said = isinstance(error, RuntimeError) and re.search(GPU_MEMORY, str(error)) is not None
    return said or isinstance(error, torch.OutOfMemoryError)


def memory_words(device: torch.device, error: BaseException) -> str:
    """What did not fit, and who holds the memory of the device, as far as that can be asked."""
    asked, module = re.search(r"allocate ([\d.]+ \w+)", str(error)), torch.get_device_module(device)
    words = "the GPU has too little memory" + (f" for {asked[1]} more" if asked else "")
    if not hasattr(module, "mem_get_info"):
        return words
    (free, total), own = module.mem_get_info(device), module.memory_reserved(device)
    others = total - free - own
    words += f": this run holds {own / GIB:.1f} of {total / GIB:.1f} GiB"
    if others < GIB:  # CUDA itself takes half of that in each process
        return words
    processes = re.findall(r"process +(\d+) uses", module.list_gpu_processes(device))
    own_number = str(os.getpid())  # in a container it has another number, as have the others
    names = [number for number in processes if number != own_number] if own_number in processes else []
    return f"{words}, and {others / GIB:.1f} are held by another process" + (f" ({', '.join(names)})" if names else "")


def fit_together(models: Sequence[nn.Module], device: torch.device) -> bool:
    """Whether models leave half of the memory that is free on a device."""
    module = torch.get_device_module(device)
    needed = sum(value.nbytes for model in models for value in model.state_dict().values())
    return not hasattr(module, "mem_get_info") or needed < module.mem_get_info(device)[0] / 2


class Halves:
    """Runs a function on batches, and on halves of one that the GPU has too little memory for; a line says it once."""

    def __init__(self) -> None:
        self.most: int | None = None  # samples at once
        self.is_told = False

    def __call__(self, run: Callable[[Batch], T], batch: Batch) -> Iterator[tuple[Batch, T]]:
        """The parts of a batch in their order, each with its result; a single one where all of it fits."""
        count = len(batch[INPUT_ID])
        if self.most is None or count <= self.most:
            try:
                result = run(batch)
            except Exception as error:
                if count < 2 or not is_out_of_memory(error) or not is_divisible(batch, count):
                    raise
                self.most = count // 2
            else:
                if self.most is not None and not self.is_told:
                    self.is_told = True
                    print(f"note: the GPU has too little memory for larger batches; predicting {self.most} at once")
                yield batch, result
                return
        most = self.most
        for start in range(0, count, most):
            yield from self(run, part_of(batch, start, start + most))


def is_divisible(value: Any, count: int) -> bool:
    """Whether all in a batch that has a length has one of its `count` samples at each place."""
    if isinstance(value, dict):
        return all(is_divisible(each, count) for each in value.values())
    return not has_samples(value) or len(value) == count


def part_of(value: Any, start: int, end: int) -> Any:
    """Some samples of a batch, or of a value in it; what has no length stays."""
    if isinstance(value, dict):
        return {key: part_of(each, start, end) for key, each in value.items()}
    return value[start:end] if has_samples(value) else value


def has_samples(value: Any) -> bool:
    """Whether a value of a batch has a place for each sample."""
    return isinstance(value, list | tuple) or (isinstance(value, Tensor | np.ndarray) and value.ndim > 0)
