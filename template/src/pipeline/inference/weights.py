"""Weights as safetensors: written atomically, refused by name when they do not fit."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from pipeline.errors import UserError, listed
from pipeline.files import atomic


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights and a few strings that say where they come from."""
    with atomic(path) as temporary:
        try:
            save_model(model, str(temporary), metadata=metadata)
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
