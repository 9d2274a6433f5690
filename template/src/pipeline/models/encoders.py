"""What image-level models are built of: encoders, timm's by name or the competition's own, and the heads' layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from torch import nn

from pipeline.competition import Head
from pipeline.config import Model
from pipeline.heads.base import kind_of
from pipeline.models.pretrained import HUB, cached_weights, fixed_size, no_weights, reason, recompute
from pipeline.registry import Registry, check_params
from toolkit.errors import UserError, nearest

WEIGHTS_FROM_ELSEWHERE = {"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}  # arguments of timm.create_model


def make_encoder(settings: Model, names: Registry, params: dict[str, Any]) -> Any:
    """An encoder of the competition's own, or timm's by name: (B, C, H, W) to pooled features (B, width).

    An architecture of a fixed size is built for `settings.image_size`, and timm resamples the position embeddings of
    its pretrained weights. Where it can, it takes other sizes as well, by resampling them in each call.

    Raises:
        UserError: a name nobody knows, an argument or image size the encoder refuses, or weights out of reach.
    """
    own = names.has("encoder", settings.encoder)
    encoder = _own_encoder(settings, names, params) if own else _timm_encoder(settings, params)
    if settings.grad_checkpointing:
        recompute(encoder, settings.encoder)
    return encoder


def _own_encoder(settings: Model, names: Registry, params: dict[str, Any]) -> Any:
    if settings.drop_path_rate:
        what = f"encoder '{settings.encoder}' is the competition's own and gets no model.drop_path_rate"
        raise UserError(f"{what}; set it to 0, and what the encoder takes in model.params.encoder_params")
    encoder = names.find("encoder", settings.encoder)(settings.in_chans, settings.pretrained, **params)
    if not isinstance(getattr(encoder, "num_features", None), int):
        raise UserError(f"encoder '{settings.encoder}' does not say how wide its features are; give it num_features")
    return encoder


def _timm_encoder(settings: Model, params: dict[str, Any]) -> Any:
    name = settings.encoder
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture) and not name.startswith((*HUB, "local-dir:")):
        raise UserError(f"unknown encoder '{name}'; {nearest(architecture, timm.list_models())}")
    arguments = {"drop_path_rate": settings.drop_path_rate or None, **params}
    if settings.pretrained and not params.keys() & WEIGHTS_FROM_ELSEWHERE and (cached := cached_weights(name)):
        arguments["pretrained_cfg_overlay"] = {"file": cached}
    arguments = {key: value for key, value in arguments.items() if value is not None}
    sizes: dict[str, Any] = {}
    if settings.image_size is not None and fixed_size(settings):
        sizes = {"img_size": settings.image_size, "dynamic_img_size": True}
    given = {"pretrained": settings.pretrained, "in_chans": settings.in_chans, "num_classes": 0, **arguments}
    try:
        return _create(name, given, {key: value for key, value in sizes.items() if key not in given})
    except (TypeError, AssertionError) as error:
        remedy = "correct model.params.encoder_params or model.drop_path_rate, or choose another image.size than"
        what = f"encoder '{name}' refused its settings ({reason(error)})"
        raise UserError(f"{what}; {remedy} {settings.image_size}") from error
    except Exception as error:
        if not settings.pretrained:
            raise
        raise no_weights(name, error) from error


def _create(name: str, arguments: dict[str, Any], sizes: dict[str, Any]) -> Any:
    """`timm.create_model`, without those of `sizes` that the architecture does not take."""
    try:
        return timm.create_model(name, **arguments, **sizes)
    except TypeError as error:
        taken = {key: value for key, value in sizes.items() if f"'{key}'" not in str(error)}
        if len(taken) == len(sizes):
            raise
    return _create(name, arguments, taken)


def head_layers(heads: Sequence[Head], width: int, params: Mapping[str, Mapping[str, Any]]) -> dict[str, nn.Module]:
    """The layer of each head by its output key, linear where its kind has no other; `params` by name of head."""
    known = [head.name for head in heads]
    for name in params:
        if name not in known:
            raise UserError(f"model.params.head_params: there is no head '{name}'; {nearest(name, known)}")
    layers = {}
    for head in heads:
        layer = kind_of(head).layer
        settings = check_params(layer, params.get(head.name, {}), f"model.params.head_params.{head.name}")
        layers[head.output_key] = layer(width, **settings)
    return layers
