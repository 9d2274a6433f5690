"""Weights as safetensors: written atomically, refused by name when they do not fit."""

import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from toolkit.errors import UserError, listed
from toolkit.files import atomic

CHECKSUM = "crc32"


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights, their checksum, and a few strings that say where they come from."""
    with atomic(path) as temporary:
        try:
            save_model(model, str(temporary), metadata={**metadata, CHECKSUM: checksum(model)})
        except SafetensorError as error:  # it hides the operating system's error inside its own
            raise OSError(str(error)) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into a model of the same architecture.

    Raises:
        UserError: the file is missing, damaged, or made for another model.
    """
    if not path.is_file():
        raise UserError(f"there are no weights at {path}; train this fold first")
    try:
        missing, unexpected = load_model(model, str(path), strict=False)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); remove the fold's folder and train it again") from error
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} does not fit the model: {reason}") from error
    if missing or unexpected:
        raise UserError(
            f"{path} does not fit the model: {listed([*missing, *unexpected])} differ; it was made by another model"
        )
    with safe_open(str(path), "pt") as file:
        expected = (file.metadata() or {}).get(CHECKSUM)
    if expected not in (None, checksum(model)):
        raise UserError(f"{path} is damaged (its checksum differs); remove the fold's folder and train it again")


def checksum(model: nn.Module) -> str:
    """CRC-32 of all weights and buffers in their order, which safetensors itself does not keep."""
    crc = 0
    for value in model.state_dict().values():
        crc = zlib.crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
