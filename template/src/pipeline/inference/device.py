"""Where to compute and in which precision, by what the device really supports."""

import torch

from pipeline.types import Precision
from toolkit.errors import UserError


def choose_device(asked: str, number: int = 0) -> torch.device:
    """The device for `machine.device`, a GPU by its number; `auto` takes a usable one where there is one. A `UserError`
    where the device is not there, or the installed torch has no kernels for it."""
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
