"""Where to compute and in which precision, by what the device really supports."""

import torch

from pipeline.types import Precision
from toolkit.errors import UserError


def choose_device(asked: str, number: int = 0) -> torch.device:
    """The device for `machine.device`; `auto` takes a usable GPU where there is one.

    Args:
        number: which of the GPUs: that of this process among those of this machine.

    Raises:
        UserError: a device was asked for that is not there, or that the installed torch has no kernels for.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "machine.device is cuda, and torch finds no GPU here; set machine.device=auto or install a driver"
        )
    if asked == "mps" and not torch.backends.mps.is_available():
        raise UserError("machine.device is mps, and torch finds none here; set machine.device=auto")
    if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()):
        if number >= torch.cuda.device_count():
            raise UserError(
                f"process {number + 1} of this machine finds {torch.cuda.device_count()} GPU; "
                "set machine.devices to as many as there are"
            )
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
    built_for = [int(arch.partition("_")[2].rstrip("af")) for arch in torch.cuda.get_arch_list() if arch[:3] == "sm_"]
    if any(arch // 10 == major and arch % 10 <= minor for arch in built_for):
        return None
    if any(
        arch.startswith("compute_") and int(arch[8:].rstrip("af")) <= major * 10 + minor
        for arch in torch.cuda.get_arch_list()
    ):
        return None
    name = torch.cuda.get_device_name(number)
    return (
        f"the installed torch {torch.__version__} has no kernels for {name} (sm_{major}{minor}); install one that has"
    )


def choose_precision(asked: str, device: torch.device) -> Precision:
    """The precision for `training.precision` on `device`.

    Raises:
        UserError: half precision was asked for where it would only be emulated.
    """
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
