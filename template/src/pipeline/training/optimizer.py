"""The optimiser, its parameter groups, and what happens to gradients before it steps."""

import fnmatch
import inspect
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn

from pipeline.config import Optimizer, Training
from pipeline.registry import Registry
from toolkit.errors import UserError, nearest
from toolkit.terminal import table

LOOKAHEAD = "lookahead_"  # timm's prefix for an optimiser with slow weights (Zhang et al., arXiv:1907.08610)
NO_DECAY = " (no decay)"


def parameter_groups(model: nn.Module, settings: Optimizer) -> list[dict[str, Any]]:
    """Weights with decay; norms, biases and what the encoder's `no_weight_decay()` names without.

    Every parameter is in exactly one group, also one that does not train now. With `layer_decay` d, layer k of an
    encoder of K layers, counted from 0 at the image, has d^(K - k) times the rate of the heads (Clark et al.,
    arXiv:2003.10555). `encoder_lr_factor` multiplies the rate of all of the encoder.

    Returns:
        Groups with `params`, `weight_decay`, `lr` and `initial_lr` (both the peak), and `name`: `model`, or `heads` and
        `encoder`, or `heads`, `encoder_00`, `encoder_01`, ..., each with ` (no decay)` behind it where that is so.

    Raises:
        UserError: the model or the encoder has no such parts.
    """
    encoder = getattr(getattr(model, "network", None), "encoder", None)
    by_layer, by_part = settings.layer_decay not in (None, 1.0), settings.encoder_lr_factor != 1.0
    if not isinstance(encoder, nn.Module) and (by_layer or by_part):
        setting = "layer_decay" if by_layer else "encoder_lr_factor"
        raise UserError(f"optimizer.{setting} needs a model with a module `encoder`, which yours lacks; leave it out")
    layers = encoder_layers(encoder) if by_layer and isinstance(encoder, nn.Module) else {}
    top = max(layers.values(), default=0)
    no_decay: set[str] = getattr(encoder, "no_weight_decay", set)()  # names, or patterns with `*`
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        inner = name.removeprefix("network.encoder.")
        inside = inner != name
        layer = layers[inner] if by_layer and inside else top
        if layer < top:
            part = f"encoder_{layer:02d}"
        elif by_layer or by_part:
            part = "encoder" if inside and by_part else "heads"
        else:
            part = "model"
        decays = settings.weight_decay > 0 and parameter.ndim > 1 and not name.endswith(".bias")
        decays = decays and not (inside and any(fnmatch.fnmatchcase(inner, pattern) for pattern in no_decay))
        rate = settings.lr * (settings.encoder_lr_factor if inside else 1.0)
        rate *= (settings.layer_decay or 1.0) ** (top - layer)
        group = groups.setdefault((part, decays), {"params": [], "lr": rate, "initial_lr": rate})
        group["params"].append(parameter)
        group["weight_decay"] = settings.weight_decay if decays else 0.0
        group["name"] = part if decays else part + NO_DECAY
    return [groups[key] for key in sorted(groups)]


def encoder_layers(encoder: nn.Module) -> dict[str, int]:
    """The layer of each of the encoder's parameters by name, from 0 at the image; the last number is the heads'."""
    if not hasattr(encoder, "group_matcher"):
        raise UserError(
            "optimizer.layer_decay needs an encoder with `group_matcher`, as most of timm's have; "
            "set optimizer.encoder_lr_factor instead"
        )
    classifier = (getattr(encoder, "pretrained_cfg", None) or {}).get("classifier") or "head"
    marker = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"  # it was made without its head
    named = [*((name, None) for name, _ in encoder.named_parameters()), (marker, None)]
    layers: dict[str, int] = group_with_matcher(iter(named), encoder.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    return layers


def make_optimizer(model: nn.Module, settings: Optimizer, names: Registry, fused: bool) -> torch.optim.Optimizer:
    """timm's or torch's optimiser by timm's name, in its fused form where there is one and `fused` allows it.

    Raises:
        UserError: no optimiser of that name, one that cannot be used here, or an argument it does not take.
    """
    known = [str(name) for name in list_optimizers()]
    base = settings.name.removeprefix(LOOKAHEAD)
    if base not in known:
        raise UserError(f"unknown optimiser '{settings.name}'; {nearest(base, known)}")
    if settings.params.get("fused") and not fused:
        raise UserError("optimizer.params.fused is not possible on this kind of device; leave it out")
    groups = names.bind("parameter_groups", settings.parameter_groups)(model, settings)
    try:
        takes = inspect.signature(get_optimizer_class(base, bind_defaults=False)).parameters
        # torch's fused SGD fails where a parameter joins later, as an unfrozen one does.
        can_fuse = fused and "fused" in takes and "momentum" not in takes
        params = {"fused": True, **settings.params} if can_fuse else settings.params
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            groups, opt=settings.name, lr=settings.lr, weight_decay=settings.weight_decay, **params
        )
    except (ImportError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"optimiser '{settings.name}' refused its settings: {error}") from error
    if getattr(optimizer, "is_second_order", False):
        raise UserError(f"optimiser '{settings.name}' needs second derivatives, which no step keeps; choose another")
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def like_parameters(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state of the optimiser, with what has the shape of a parameter on its device and in its memory format:
    fused kernels read both alike, and torch itself keeps the strides it finds."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def like(parameter: Tensor, name: str, value: Any) -> Any:
        if name == "step" or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    found = {
        number: {name: like(parameters[number], name, value) for name, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    return {**state, "state": found}


def print_rates(optimizer: torch.optim.Optimizer) -> None:
    """A table of the peak rates, where there is more to say than one rate."""
    parts: dict[str, list[Any]] = {}
    for number, group in enumerate(optimizer.param_groups):
        part = str(group.get("name", f"group_{number}")).removesuffix(NO_DECAY)
        row = parts.setdefault(part, [f"{group['initial_lr']:.2e}", 0, 0.0])
        row[1] += sum(parameter.numel() for parameter in group["params"])
        row[2] = max(row[2], group.get("weight_decay", 0.0))
    if len(parts) > 1 and len(optimizer.param_groups) > 2:
        rows = [(part, rate, f"{count:,}", f"{decay:g}") for part, (rate, count, decay) in parts.items()]
        table("peak learning rates", ("part", "rate", "parameters", "weight decay"), rows)


def clip_gradients(model: nn.Module, settings: Training, norm: Tensor | None = None) -> None:
    """Clip the unscaled gradients in place, by timm, if `clip_grad` is set; `norm` is that of all, if it is known.

    `agc` is by unit (Brock et al., arXiv:2102.06171); as there, the heads (`network.heads`) are left out of it.
    """
    if settings.clip_grad is None:
        return
    if settings.clip_mode == "norm" and norm is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), settings.clip_grad, norm)
        return
    heads = getattr(getattr(model, "network", None), "heads", None)
    left_out = heads.parameters() if settings.clip_mode == "agc" and isinstance(heads, nn.Module) else ()
    ids = {id(parameter) for parameter in left_out}
    parameters = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    dispatch_clip_grad(parameters, settings.clip_grad, mode=settings.clip_mode)
