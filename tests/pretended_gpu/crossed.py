"""What `tests/test_pretended_gpu_crossed.py` runs on the pretended GPU beside a CPU, many small things in one process.

Called as a script with the name of a function below, it prints what that returns as a line of JSON.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd
import torch
from timm.optim import list_optimizers
from torch import Tensor, nn
from torch.nn import functional

from pipeline.callbacks.non_finite import knows_flags
from pipeline.competition import Competition, Head
from pipeline.config import Experiment, LossRow, Model, Optimizer
from pipeline.data.loader import to_device
from pipeline.heads.base import kind_of
from pipeline.inference.weights import host_copy
from pipeline.keys import INPUT_ID
from pipeline.losses.criterion import WeightedLosses
from pipeline.models.encoder_heads import EncoderHeads
from pipeline.registry import Registry, Spec
from pipeline.settings import Settings
from pipeline.tasks import Task
from pipeline.tasks.image_level.task import ImageLevelTask
from pipeline.tasks.segmentation.task import SegmentationTask
from pipeline.tasks.segmentation.windows import INPUT_WINDOW, Window
from pipeline.training import NAMES
from pipeline.training.optimizer import like_parameters, make_optimizer
from pipeline.training.validation import Validation
from pretended_gpu.device import DEVICE, extension
from toolkit.errors import UserError

CPU = torch.device("cpu")


def optimizers() -> dict[str, dict[str, Any]]:
    """Of every optimiser: how far three steps on the two devices lie apart, with the state saved and loaded before the
    last; how often a step after the first waits, before and after that; and whether it leaves a step out by a flag."""
    found: dict[str, dict[str, Any]] = {}
    known = [str(name) for name in list_optimizers()]
    for name in [*known, *(f"lookahead_{name}" for name in ("adamw", "sgd"))]:
        try:
            with torch.compiler.set_stance("force_eager"):  # kron compiles, and nothing writes kernels for the device
                ends = {device: list(_steps(name, device)) for device in (CPU, DEVICE)}
        except UserError as error:
            found[name] = {"refused": str(error)}
            continue
        (weights, *_), (others, before, after, flagged) = (values for values in ends.values())
        apart = max(float((one - other).abs().max()) for one, other in zip(weights, others, strict=True))
        found[name] = {"apart": apart, "waits": [before, after], "by_flag": flagged}
    return found


def _steps(name: str, device: torch.device) -> Iterator[Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
    model = model.to(memory_format=torch.channels_last).to(device)
    generator, counted = torch.Generator().manual_seed(0), []
    optimizer = _optimizer(name, model)
    for number in range(3):
        images, classes = torch.randn(8, 3, 6, 6, generator=generator).to(device), (torch.arange(8) % 4).to(device)
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images), classes).backward()
        if number == 2:
            saved, optimizer = host_copy(optimizer.state_dict()), _optimizer(name, model)
            optimizer.load_state_dict(like_parameters(optimizer, saved))
        torch.manual_seed(number)  # some draw
        counted.append(_waits(optimizer.step)[1])
    yield [value.detach().cpu() for value in model.parameters()]
    yield from counted[1:]
    yield knows_flags(optimizer)


def decoding() -> dict[str, dict[str, Any]]:
    """Of kinds of heads, all of a kind of task together: how often the host waits for a held-out batch, and whether the
    predictions are those that the same outputs on the CPU come to."""
    generator = torch.Generator().manual_seed(0)
    ids = [f"{number}" for number in range(6)]
    heads = [
        Head("one", "multiclass", tuple("abc")),
        Head("more", "multilabel", tuple("xy")),
        Head("size", "regression"),
    ]
    heads += [Head("grade", "ordinal", tuple("0123")), Head("who", "embedding", tuple("pqrst"))]
    kinds = [kind_of(head) for head in heads]
    logits = {kind.head.output_key: torch.randn(6, kind.width, generator=generator).bfloat16() for kind in kinds}
    masks = [Head("mask", "mask", ("a", "b")), Head("kind", "multiclass_mask", ("x", "y"))]
    maps = {
        f"output_{name}": torch.randn(6, width, 32, 32, generator=generator)
        for name, width in (("mask", 2), ("kind", 3))
    }
    maps["output_mask@presence"] = torch.randn(6, 2, generator=generator)
    whole = [Window((40, 48), 0, 0, 40, 48).numbers.tolist() for _ in ids]
    competition = Competition(Settings.model_construct())
    cases = {
        "image-level": (ImageLevelTask(competition, heads), {INPUT_ID: ids}, logits),
        "masks": (SegmentationTask(competition, masks), {INPUT_ID: ids, INPUT_WINDOW: whole}, maps),
    }
    return {name: _decoded(*case) for name, case in cases.items()}


def _decoded(task: Task, batch: dict[str, Any], outputs: dict[str, Tensor]) -> dict[str, Any]:
    tables, waited = [], 0
    for device in (CPU, DEVICE):
        decode = task.decoder(Experiment(), Registry(task.NAMES))
        validation = Validation(task, (), pd.DataFrame({"id": batch[INPUT_ID]}), decode, lambda rows, found: found)
        there = {key: value.to(device) for key, value in outputs.items()}
        result: Any = {"loss": there[next(iter(there))].sum(), "losses": {}, "outputs": there}
        waited = _waits(partial(validation.add, batch, result))[1]
        tables += validation.parts
    return {"waits": waited, "same": bool(tables[0].equals(tables[1])), "rows": len(tables[1])}


def side_columns() -> dict[str, Any]:
    """Loss and lengths of gradients of a model with side columns and several losses on the two devices; how often the
    host waits in such a step; and its loss where dynamo has traced the model, without kernels of its own."""
    found: dict[str, Any] = {"values": []}
    for device in (CPU, DEVICE):
        torch.manual_seed(0)
        settings = Model(encoder="test_resnet", pretrained=False, side_columns=("age", "implant"))
        head, names = Head("cancer", "multiclass", ("0", "1")), Registry(ImageLevelTask.NAMES)
        network = EncoderHeads([head], settings, names).to(device).train()
        terms = [Spec(name=name) for name in ("cross_entropy", "bce", "focal", "asymmetric")]
        losses = WeightedLosses([LossRow(head="cancer", loss=term) for term in terms], [head], names).to(device)
        side = torch.tensor([[1.0, 5], [torch.nan, 7], [3, torch.nan], [2, 2]])
        batch = {"input_id": list("abcd"), "input_image": torch.rand(4, 3, 24, 24), "input_side": side}
        batch |= {"target_cancer": torch.tensor([0, 1, 1, 0]), "input_weight": torch.ones(4)}
        loss, found["waits"] = _waits(partial(_stepped, network, losses, to_device(batch, device)))
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        found["values"].append([float(loss), *(float(each.norm()) for each in gradients)])
    compiled = torch.compile(network, backend="aot_eager", dynamic=False)
    found["compiled"] = float(_stepped(compiled, losses, to_device(batch, DEVICE)))
    return found


def _stepped(network: Callable[..., Any], losses: nn.Module, batch: dict[str, Any]) -> Tensor:
    loss: Tensor = losses(network(batch), batch)["loss"]
    loss.backward()
    return loss.detach()


def _waits(function: Callable[[], Any]) -> tuple[Any, int]:
    """What a function gives, and how often the host waits for the device in it."""
    heard: list[str] = []
    extension.listen(lambda kind, operation, size: heard.append(kind))
    try:
        return function(), sum(kind in ("read", "write") for kind in heard)
    finally:
        extension.listen(None)


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(model, Optimizer(name=name, lr=0.01, weight_decay=0.1), Registry(NAMES), fused=True)


if __name__ == "__main__":
    chosen: Callable[[], Any] = globals()[sys.argv[1]]
    print(json.dumps(chosen()))
