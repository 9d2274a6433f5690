"""Planted NaN and Inf: each is caught before the optimiser steps, its first cause is named, and its dump replays."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.callbacks.non_finite import NonFinite
from pipeline.config import parse_experiment
from pipeline.types import PreparedModel, Progress, Verdict
from planted.losses import CULPRIT, KINDS
from projects import ROOT, Renders, run_process, run_script
from toolkit.distributed import Processes
from toolkit.errors import UserError
from training import demo_project, expect, register

pytestmark = pytest.mark.slow

LOSSES = "losses=[{loss: cross_entropy, head: label}, {loss: {name: fault, params: {kind: KIND}}, name: planted}]"


@dataclass(frozen=True)
class Fault:
    """What is planted, and what the message has to name.

    Attributes:
        settings: of the experiment.
        names: patterns that the message holds: the operation, its line or module, and the cause in words.
        sample: whether it lies in one sample, which then is named.
    """

    settings: tuple[str, ...]
    names: tuple[str, ...]
    sample: bool = False


def in_loss(operation: str, words: str, code: str, sample: bool = True) -> Fault:
    return Fault((LOSSES,), (rf"'{operation}' .*losses\.py:\d+: `[^`]*{re.escape(code)}", words), sample)


def encoder(spoil: str, *names: str) -> Fault:
    return Fault((f"model.encoder=encoder_{spoil}",), names)


FAULTS = {
    "log_of_negative": in_loss("log", "log of a negative number", "torch.log("),
    "log_of_zero": in_loss("log", "log of zero", "torch.log("),
    "raw_sigmoid": in_loss("log", "log of zero.*logits", "torch.log(1 - probability)"),
    "log1p_of_minus_one": in_loss("log1p", "log of zero", "torch.log1p("),
    "sqrt_of_negative": in_loss("sqrt", "root of a negative number", "torch.sqrt("),
    "sqrt_at_zero": in_loss("sqrt", "gradient of a root at zero", "torch.sqrt("),
    "rsqrt_of_zero": in_loss("rsqrt", "root of zero", "torch.rsqrt("),
    "division_by_zero": in_loss("div", "division by zero", "return x / "),
    "reciprocal_of_zero": in_loss("reciprocal", "division by zero", "torch.reciprocal("),
    "masked_division": in_loss("div", "gradient of a division by zero", "x / below"),
    "masked_log": in_loss("log", "gradient of log at zero", "torch.log(inside)"),
    "exp_of_a_thousand": in_loss("exp", "exponential of 1e", "torch.exp("),
    "fractional_power_of_negative": in_loss("pow", "negative number.* to a power", "** 1.5"),
    "power_at_zero": in_loss("pow", "gradient of a root at zero", "** 0.5"),
    "acos_beyond_one": in_loss("acos", "beyond -1 to 1", "torch.acos("),
    "acos_at_one": in_loss("acos", "gradient of arc cosine at", "torch.acos("),
    "arcface_at_one": in_loss("sqrt", "gradient of a root at zero", "torch.sqrt(1 - cosine * cosine)"),
    "mean_of_nothing": in_loss("mean", "mean of nothing", "[culprit & ~culprit].mean()", sample=False),
    "spread_of_one": in_loss("std", "spread of a single number", "[culprit].std()", sample=False),
    "spread_of_equals": in_loss("sqrt", "gradient of a root at zero", "torch.sqrt(pairs.var(dim=1))"),
    "normalised_nothing": in_loss("div", "division by zero", "vectors / vectors.norm"),
    "divergence_of_nothing": in_loss("log", "log of zero", "torch.log(share / x)"),
    "everything_ignored": in_loss("nll_loss_forward", "mean of nothing", "functional.cross_entropy("),
    "everything_masked": in_loss("masked_fill", "-?Inf", "masked_fill("),
    "half_overflow": in_loss("_to_copy", "float16, which ends at 65504", ".half()"),
    "sum_overflow": in_loss("sum", "overflowed on numbers up to 3e\\+38", ".sum(dim=1)"),
    "infinite_pixel": Fault(
        ("training.batch_transforms=[infinite_pixel]",),
        (r"parts\.py:\d+: `batch\[.input_image.\]\[row", "made .* Inf"),
        sample=True,
    ),
    "missing_pixel": Fault(("image.reader=missing_pixel",), ("'input_image'", "NaN: look at the reader"), True),
    "nan_initialisation": encoder(
        "nan", r"weights 'network\.encoder\.middle\.weight'", "before the first step.*initial"
    ),
    "huge_initialisation": encoder("huge", r"network\.encoder\.middle", "overflowed.*initialised"),
    "norm_without_epsilon": encoder(
        "norm", r"'div' in network\.encoder \(.*features\.std\(dim=0\)", "division by zero"
    ),
    "exploding_rate": Fault(("optimizer={name: sgd, lr: 1e12}",), (r"network\.", "lower the rate|learning rate")),
    "infinite_rate": Fault(("schedule.name=infinite",), (r"weights 'network\.", "learning rate inf")),
    "adam_without_epsilon": Fault(
        ("optimizer.params={eps: 0}", "model.encoder=encoder_dead"),
        (r"weights 'network\.encoder\.dead", "tiny `eps`"),
    ),
    "gradient_of_a_callback": Fault(("callbacks=[spoil_gradient]",), ("the gradient of network", "does not depend on")),
}


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo competition with code that goes wrong."""
    project = demo_project(renders, tmp_path_factory.mktemp("planted") / "project")
    shutil.copytree(ROOT / "tests/planted", project / "src/competition/planted")
    names = {
        "loss": {"fault": "losses:Fault"},
        "reader": {"missing_pixel": "parts:missing_pixel"},
        "batch_transform": {"infinite_pixel": "parts:infinite_pixel"},
        "encoder": {f"encoder_{spoil}": f"parts:encoder_{spoil}" for spoil in ("nan", "huge", "norm", "dead")},
        "schedule": {"infinite": "parts:infinite_rate"},
        "callback": {"spoil_gradient": "parts:SpoilGradient"},
    }
    for kind, found in names.items():
        register(project, kind, {name: f"competition.planted.{value}" for name, value in found.items()})
    return project


@pytest.mark.parametrize("name", FAULTS)
def test_named_and_replayed(project: Path, name: str) -> None:
    fault = FAULTS[name]
    settings = [setting.replace("KIND", name) for setting in fault.settings]
    result = run_script(
        project, "train.py", "small", "training.epochs=1", *settings, "--as", name.replace("_", "-"), "--fold", "0"
    )
    message = expect(result, status=2).last_line
    for pattern in fault.names:
        assert re.search(pattern, message), f"{pattern!r} is not in {message}"
    assert re.match(r"error: step \d+ \(epoch 1, batch \d+\) of fold 0: ", message), message
    assert (f"samples: {CULPRIT};" in message) == fault.sample, message
    [dump] = (project / "runs" / name.replace("_", "-") / "fold_0/non_finite").glob("*.pt")
    again = expect(run_script(project, "replay.py", str(dump))).stdout
    then, now = (re.search(rf"{word}: +(.*)", again)[1] for word in ("then", "now"))  # type: ignore[index]
    assert now in then, f"{then}\n{now}"


def test_every_fault_is_tried() -> None:
    assert KINDS.keys() <= FAULTS.keys()


def test_skipped_within_a_limit(project: Path) -> None:
    settings = [LOSSES.replace("KIND", "log_of_zero"), "watch.non_finite=skip", "training.epochs=2"]
    result = expect(run_script(project, "train.py", "small", *settings, "--as", "skips", "--fold", "0"))
    warnings = re.findall(r"warning: step (\d+) \(epoch (\d), .*skipped, (\d) of at most 10", result.stderr)
    assert [(epoch, count) for _, epoch, count in warnings] == [("1", "1"), ("2", "2")], result.stderr
    weights = load_file(project / "runs/skips/fold_0/best.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values()), "batch norm has seen no NaN either"
    limit = [*settings, "watch.max_skips=1", "--as", "few-skips", "--fold", "0"]
    message = expect(run_script(project, "train.py", "small", *limit), status=2).last_line
    assert re.search(r"\(epoch 2, .*1 steps were skipped before it", message), message


def test_accumulated_batches_and_anomaly_detection(project: Path) -> None:
    settings = [LOSSES.replace("KIND", "arcface_at_one"), "training.accumulate=4", "training.batch_size=32"]
    first = run_script(project, "train.py", "small", *settings, "--as", "window", "--fold", "0")
    named = re.search(r"batch (\d+)\) .*'sqrt'.*samples: 00077", expect(first, status=2).last_line)
    assert named, first.last_line
    settings += ["watch.anomaly=true", "--as", "detected", "--fold", "0"]
    with pytest.warns(UserWarning, match="Error detected in "):  # torch's own, which Lightning would turn off
        second = expect(run_script(project, "train.py", "small", *settings), status=2).last_line
    assert re.search(rf"batch {named[1]}\) .*'sqrt'.*samples: 00077", second), second
    assert not torch.is_anomaly_enabled()


def test_two_processes_name_the_sample_of_one(project: Path) -> None:
    settings = [LOSSES.replace("KIND", "sqrt_at_zero"), "machine.devices=2", "--as", "shared", "--fold", "0"]
    result = run_process(project, "train.py", "small", "training.epochs=1", *settings)
    message = expect(result, status=2).last_line
    assert re.search(r"'sqrt' .*gradient of a root at zero.*samples: 00077;", message), message
    [dump] = (project / "runs/shared/fold_0/non_finite").glob("*.pt")
    assert "00077" in expect(run_script(project, "replay.py", str(dump))).stdout.split("now:")[1]


class Half:
    """A run in fp16, as far as the callback sees one: its step overflows in fp16 where `size` is large."""

    def __init__(self, pipeline: SimpleNamespace, folder: Path, size: float) -> None:
        self.model = pipeline.PreparedModel(torch.nn.Identity(), torch.nn.Linear(1, 1, bias=False))
        torch.nn.init.constant_(self.model.network.weight, size)
        self.config = pipeline.parse_experiment({}, "test")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.progress, self.processes, self.precision = pipeline.Progress(), pipeline.Processes(), "fp16"
        self.scaler, self.device = torch.amp.GradScaler("cpu"), torch.device("cpu")
        self.experiment, self.fold, self.folder = "half", "0", folder

    def run_step(self, stage: str, batch: dict[str, Any], model: Any = None, precision: Any = None) -> dict[str, Any]:
        given = self.model.network(batch["input_image"])[:, 0]
        outputs = given if precision == "fp32" else given.half()
        loss = outputs.float().mean()
        losses = {"one": loss.detach()}
        samples = {"one": outputs.detach().float()}
        return {"loss": loss, "losses": losses, "sample_losses": samples, "outputs": {"output_label": outputs.detach()}}


@pytest.mark.parametrize(("size", "overflows"), [(1.0, False), (1e5, True)])
def test_fp16_is_told_apart(size: float, overflows: bool, tmp_path: Path) -> None:
    parts = {"PreparedModel": PreparedModel, "Progress": Progress, "Processes": Processes}
    run = Half(SimpleNamespace(parse_experiment=parse_experiment, **parts), tmp_path / "runs/half/fold_0", size)
    callback = NonFinite()
    batch = {"input_id": ["a", "b"], "input_image": torch.ones(2, 1)}
    callback.on_epoch_start(run, "train")
    result = run.run_step("train", batch)
    callback.on_batch_end(run, "train", batch, result)
    run.model.network.weight.grad = torch.full((1, 1), torch.inf)  # as the scaled gradients overflowed
    if overflows:  # the forward pass itself, which no scaler mends
        with pytest.raises(UserError, match=r"float16, which ends at 65504.*in fp32 is finite: fp16 overflowed"):
            callback.on_gradients_ready(run)
    else:
        assert callback.on_gradients_ready(run) is Verdict.GO, "the scaler leaves the step out"
        assert callback.overflows == 1
        assert torch.isinf(run.model.network.weight.grad).all(), "and sees the gradients as they are"


def test_a_dump_that_is_none(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_text("nothing")
    for path, words in ((tmp_path / "other.pt", "is no dump"), (tmp_path / "none.pt", "there is no dump")):
        assert words in expect(run_script(project, "replay.py", str(path)), status=2).last_line
