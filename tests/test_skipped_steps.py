"""A step that is not finite is left out on the device, and the host learns of it a step later: nothing else differs."""

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.callbacks import Callback, CallbackList
from pipeline.callbacks.gradients import Gradients
from pipeline.callbacks.non_finite import NonFinite, knows_flags, replay
from pipeline.config import parse_experiment
from pipeline.losses.criterion import LossSums
from pipeline.registry import Registry
from pipeline.trackers import Trackers
from pipeline.training import NAMES
from pipeline.training.averaging import WeightAverages
from pipeline.training.optimizer import make_optimizer
from pipeline.training.trainer import Trainer
from pipeline.types import Batch, PreparedModel, Progress, StepContext, StepResult, Verdict
from toolkit.debug.non_finite import Finder
from toolkit.distributed import Processes
from toolkit.errors import UserError

CPU = torch.device("cpu")
BATCHES = 6  # of an epoch


def step(batch: Batch, model: PreparedModel, context: StepContext) -> StepResult:
    outputs = model.network(batch["input_image"])[:, 0]
    samples = (outputs - torch.sqrt(batch["target"])).square()
    found = samples.mean()
    terms = {"losses": {"root": found.detach()}, "sample_losses": {"root": samples.detach()}}
    return {"loss": found, **terms, "outputs": {"output": outputs.detach()}}


class Loop(Trainer):
    """A trainer of a small model with batch norm, without data, files and a framework."""

    def __init__(self, folder: Path, device: torch.device = CPU, optimizer: str = "adamw", **settings: Any) -> None:
        training = {"accumulate": settings.pop("accumulate", 1), "clip_grad": 0.5}
        averaging = {"ema_decay": 0.9}
        watch = {"non_finite": "skip", "gradient_steps": 4, "figure_epochs": 0, **settings}
        given = {"optimizer": {"name": optimizer, "lr": 0.1}, "training": training, "averaging": averaging}
        self.config = parse_experiment({**given, "watch": watch}, "test")
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        self.model = PreparedModel(nn.Identity(), network).to(device)
        self.optimizer = make_optimizer(self.model, self.config.optimizer, Registry(NAMES), fused=True)
        self.averages = WeightAverages(self.model, self.config.averaging, epochs=9)
        self.device, self.precision, self.processes = device, "fp32", Processes()
        self.scaler = torch.amp.GradScaler(device.type, enabled=False)
        self.watching = NonFinite()
        self.callbacks = CallbackList([self.watching, Gradients()])
        self.experiment, self.fold, self.folder = "small", "0", folder
        self.epochs, self.batches_per_epoch, self.progress = 9, BATCHES, Progress()
        self.factor = lambda step: 1 / (1 + step)
        self.sums, self.tracker, self._saved_at = LossSums(), Trackers({}), time.monotonic()
        self.signals = SimpleNamespace(leaving=False)  # type: ignore[assignment]
        part = SimpleNamespace(step=step, criterion=None, transforms=())
        self.parts = {"train": part}  # type: ignore[dict-item]
        self.set_learning_rate(1.0)
        self.callbacks.on_run_start(self)

    def train(self, batches: Sequence[Batch]) -> None:
        """An epoch of these batches."""
        self.model.train()
        self.callbacks.on_epoch_start(self, "train")
        for batch in batches:
            self.scaler.scale(self.train_batch(batch) / self.config.training.accumulate).backward()
            if self.window_ends:
                self.optimizer_step()
            self.batch_end()

    def state(self) -> list[Tensor]:
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        found = [*self.model.state_dict().values(), *self.averages.state_dict().values(), *moments]
        return [value.detach().cpu().clone() for value in found]


def batches(*wrong: int, device: torch.device = CPU) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(BATCHES):
        image, target = torch.randn(8, 4, generator=generator), torch.rand(8, generator=generator)
        if number in wrong:
            target[3] = -1.0
        ids = [f"{number}_{row}" for row in range(8)]
        found.append({"input_id": ids, "input_image": image.to(device), "target": target.to(device)})
    return found


def by_hand(loop: Loop, epoch: Sequence[Batch]) -> None:
    """The same epoch by a loop that reads everything before the optimiser steps."""
    accumulate = loop.config.training.accumulate
    for first in range(0, len(epoch), accumulate):
        loop.model.train()
        before, losses = copy.deepcopy(list(loop.model.buffers())), []
        for batch in epoch[first : first + accumulate]:
            losses.append(step(batch, loop.model, None)["loss"])  # type: ignore[arg-type]
            (losses[-1] / accumulate).backward()
        if all(torch.isfinite(found) for found in losses):
            nn.utils.clip_grad_norm_(loop.model.parameters(), 0.5)
        else:
            for buffer, value in zip(loop.model.buffers(), before, strict=True):
                buffer.copy_(value)
            loop.optimizer.zero_grad()
        loop.optimizer.step()
        loop.optimizer.zero_grad()
        loop.progress.step += 1
        assert loop.averages.ema is not None
        loop.averages.ema.update(loop.model, loop.progress.step)
        loop.set_learning_rate(loop.factor(loop.progress.step))


@pytest.mark.parametrize("optimizer", ["adamw", "adagrad", "sgd", "lamb"])
@pytest.mark.parametrize(("wrong", "accumulate"), [((2,), 1), ((0, 1), 1), ((5,), 1), ((1, 4), 2), ((3,), 4)])
def test_a_skipped_step_leaves_what_a_veto_leaves(
    optimizer: str, wrong: tuple[int, ...], accumulate: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit: weights, moments, averages and batch norm's statistics; and it is said at its own step."""
    loop, expected = (Loop(tmp_path, optimizer=optimizer, accumulate=accumulate) for _ in range(2))
    loop.train(batches(*wrong))
    by_hand(expected, batches(*wrong))
    assert knows_flags(loop.optimizer) == (optimizer in ("adamw", "adagrad"))
    for one, other in zip(loop.state(), expected.state(), strict=True):
        assert torch.equal(one, other)
    said = capsys.readouterr().err.splitlines()
    steps = sorted({number // accumulate for number in wrong})
    assert [line.split(")")[0] for line in said] == [
        f"warning: step {at} (epoch 1, batch {next(n for n in wrong if n // accumulate == at) + 1}" for at in steps
    ]
    assert all(
        "square root of a negative number (-1)" in line and f"samples: {n}_3" in line
        for n, line in zip(wrong, said, strict=False)
    )
    assert (loop.watching.skipped, loop.watching.last) == (len(steps), None)


@pytest.mark.parametrize("wrong", [0, 3, BATCHES - 1])
def test_a_stop_has_applied_nothing(wrong: int, tmp_path: Path) -> None:
    loop, expected = Loop(tmp_path / "run", non_finite="stop"), Loop(tmp_path)
    by_hand(expected, batches()[:wrong])
    with pytest.raises(UserError, match=rf"step {wrong} \(epoch 1, batch {wrong + 1}\) .*'sqrt'.*samples: {wrong}_3;"):
        loop.train(batches(wrong))
    assert not loop.is_whole, "which would be saved"
    found, there = loop.model.network.state_dict(), expected.model.network.state_dict()
    assert all(torch.equal(found[name], there[name]) for name, _ in loop.model.network.named_parameters())
    dump = torch.load(tmp_path / f"run/non_finite/step_{wrong:06d}.pt", weights_only=True)
    assert (dump["step"], dump["batch_number"], dump["batch"]["input_id"][3]) == (wrong, wrong, f"{wrong}_3")
    assert all(torch.equal(value, dump["weights"][f"network.{name}"]) for name, value in there.items())


def test_skips_run_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop(tmp_path, max_skips=2)
    with pytest.raises(UserError, match=r"step 4 .*; 2 steps were skipped before it"):
        loop.train(batches(0, 1, 4))
    assert capsys.readouterr().err.count("; skipped, ") == 2


def test_the_host_looks_before_a_state_is_saved_and_when_something_else_fails(tmp_path: Path) -> None:
    """A state must not know of a step that nobody has looked at."""
    loop, saved = Loop(tmp_path), []
    loop.save = lambda: saved.append(loop.callbacks.state_dict()["0_NonFinite"]["skipped"])  # type: ignore[method-assign]
    loop._saved_at = -1e9
    loop.train(batches(1))
    assert saved[:2] == [0, 1]
    failed = Loop(tmp_path, non_finite="stop")
    with pytest.raises(KeyError):
        failed.train([*batches(1)[:2], {}])
    with pytest.raises(UserError, match=r"step 1 .*'sqrt'"):
        failed.callbacks.on_exception(failed, KeyError())


class Veto(Callback):
    def on_gradients_ready(self, run: Any) -> Verdict:
        return Verdict.SKIP if run.progress.step == 2 else Verdict.GO


def test_a_veto_of_another_callback_is_one_in_its_step(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.callbacks = CallbackList([Veto(), *loop.callbacks.callbacks])
    loop.train(batches()[:2])
    before = copy.deepcopy(list(loop.model.network.parameters()))
    loop.train(batches()[2:3])
    assert all(torch.equal(one, two) for one, two in zip(before, loop.model.network.parameters(), strict=True))


def test_large_gradients_are_no_fault(tmp_path: Path) -> None:
    """Their norm is not a float any more; each of them is finite."""
    loop = Loop(tmp_path, non_finite="stop")
    loop.callbacks.on_epoch_start(loop, "train")
    loop.train_batch(batches()[0]).backward()
    for parameter in loop.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)
    loop.optimizer_step()
    loop.batch_end()
    loop.callbacks.on_sync(loop)
    assert loop.watching.skipped == 0 and torch.isinf(loop.gradient_norm)  # type: ignore[arg-type]
    assert next(iter(loop.optimizer.state.values()))["step"] == 1


def test_the_scaler_of_fp16_leaves_out_what_overflows(tmp_path: Path) -> None:
    """Gradients that are finite in fp32: no skip, and a lower scale. A sample that is not
    finite itself is skipped as ever."""
    loop = Loop(tmp_path)
    loop.precision, loop.scaler = "fp16", torch.amp.GradScaler("cpu", init_scale=2.0**40)
    weights = copy.deepcopy(list(loop.model.network.parameters()))
    loop.train(batches()[:2])
    assert (loop.watching.overflows, loop.watching.skipped) == (1, 0), "the second is on its way"
    loop.callbacks.on_sync(loop)
    assert loop.watching.overflows == 2 and loop.scaler.get_scale() == 2.0**38
    assert all(torch.equal(one, two) for one, two in zip(weights, loop.model.network.parameters(), strict=True))
    assert loop.model.network[1].num_batches_tracked == 2
    loop.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    loop.train(batches(3)[2:5])
    loop.callbacks.on_sync(loop)
    assert (loop.watching.overflows, loop.watching.skipped) == (2, 1)
    assert next(iter(loop.optimizer.state.values()))["step"] == 2
    assert loop.model.network[1].num_batches_tracked == 4


def test_memory_that_does_not_suffice_for_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is left out or the run stops all the same, with a dump."""

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Finder, "start_from", full)
    loop = Loop(tmp_path, non_finite="stop")
    with pytest.raises(
        UserError, match=r"step 1 .*loss term 'root', the loss .*not finite; the cause is not named.*replay\.py"
    ):
        loop.train(batches(1))
    assert len(list(tmp_path.glob("non_finite/*.pt"))) == 1
    monkeypatch.setattr(loop, "run_step", full)
    finding = replay(loop, batches(1)[1], 1, rate=0.1)
    assert finding.is_shown and "not enough memory" in finding.words
