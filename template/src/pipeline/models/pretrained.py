"""What timm's encoders can: weights within reach, images of one size, activations that are recomputed."""

import logging
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from timm.models import get_pretrained_cfg

from pipeline.config import Model
from toolkit.errors import UserError

HUB = ("hf-hub:", "hf_hub:")


def cached_weights(name: str) -> str | None:
    """The file in the hub's cache that holds the weights of timm's `name`; none where timm has to fetch them.

    Before it has to, the hub is asked once whether it is there, a `UserError` where it does not answer: its own client
    asks for most of a minute. How long an answer may take is its own setting (`HF_HUB_ETAG_TIMEOUT`, 10 s).
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry, and we of the outcome
    config = None if name.startswith(HUB) else get_pretrained_cfg(name)
    if name.startswith(HUB):
        source, file = name.partition(":")[2], "config.json"
    else:
        source, file = (config and config.hf_hub_id) or "", (config and config.hf_hub_filename) or "pytorch_model.bin"
    repository, _, version = source.partition("@")
    if "/" not in repository:
        return None  # from elsewhere, or there are none: timm says so at once
    files = [file.replace("pytorch_model.bin", "model.safetensors"), file]  # in the order in which timm looks for them
    found = [try_to_load_from_cache(repository, each, revision=version or None) for each in files]
    cached = next((path for path in found if isinstance(path, str)), None)
    if cached:
        return None if config is None or config.custom_load else cached
    try:
        get_hf_file_metadata(hf_hub_url(repository, files[0], revision=version or None))
    except HfHubHTTPError:
        pass  # it answers; what it has is timm's business
    except Exception as error:
        raise no_weights(name, error) from error
    return None


def no_weights(name: str, error: Exception) -> UserError:
    """That pretrained weights are out of reach."""
    return UserError(
        f"cannot fetch the pretrained weights of '{name}' ({reason(error)}); "
        "set model.pretrained: false to train from scratch, or connect to the hub"
    )


def reason(error: Exception) -> str:
    """The first line of an error, short enough for one of ours."""
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__


def fixed_size(settings: Model) -> bool:
    """Whether timm builds the encoder for images of one size; one from the hub is known only after it is fetched."""
    config = None if ":" in settings.encoder else get_pretrained_cfg(settings.encoder)
    return ":" in settings.encoder or (config is not None and config.fixed_input_size)


def recompute(encoder: Any, name: str) -> None:
    """Let an encoder recompute its activations."""
    try:
        encoder.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError) as error:
        what = f"encoder '{name}' cannot recompute its activations"
        raise UserError(f"{what}; set model.grad_checkpointing: false") from error
