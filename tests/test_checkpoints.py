"""A checkpoint is read as it was written, or refused by name: never half of it, never code in it."""

import copy
import os
import pickle
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

from pipeline import training
from pipeline.config import Optimizer
from pipeline.inference.weights import host_copy, load_weights, save_weights
from pipeline.registry import Registry
from pipeline.training.checkpoints import CheckpointStore
from pipeline.training.optimizer import like_parameters, make_optimizer
from pipeline.types import Best
from projects import Renders
from toolkit.errors import UserError


@pytest.fixture(scope="module")
def pipeline(renders: Renders) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(
        UserError=UserError, load_weights=load_weights, save_weights=save_weights, Store=CheckpointStore
    )


def state(step: int = 0) -> dict[str, Any]:
    values = torch.arange(2500.0).reshape(50, 50) + step
    return {
        "progress": {"step": step},
        "model": {"weight": values, "count": torch.tensor(7)},
        "names": ["a", None, 0.5],
    }


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return (
        all(torch.equal(first["model"][name], second["model"][name]) for name in ("weight", "count"))
        and first["progress"] == second["progress"]
        and first["names"] == second["names"]
    )


def spoiled(whole: bytes, rng: random.Random) -> bytes:
    """The file after a bit has flipped, its end was lost, a page of it is zero, or something else is in its place."""
    kind, at = rng.choice(["flip", "cut", "zero", "foreign"]), rng.randrange(len(whole))
    if kind == "cut":
        return whole[:at]
    if kind == "foreign":
        return rng.randbytes(rng.randrange(300))
    changed = bytearray(whole)
    changed[at : at + 200] = bytes([changed[at] ^ 1 << rng.randrange(8)]) + changed[at + 1 : at + 200]
    if kind == "zero":
        changed[at : at + 200] = bytes(len(changed[at : at + 200]))
    return bytes(changed)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_spoiled_state_is_noticed_and_the_one_before_is_used(
    pipeline: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = pipeline.Store(tmp_path, 1, True)
    for step in (1, 2):
        writer.save_state(state(step))
    writer.wait()
    newest, before = tmp_path / "state.pt", tmp_path / "state.previous.pt"
    whole, previous = newest.read_bytes(), before.read_bytes()
    rng, refused = random.Random(0), 0
    for _ in range(300):
        newest.write_bytes(spoiled(whole, rng))
        found = pipeline.Store(tmp_path, 1, True).load_state()
        said = capsys.readouterr().out
        assert equal(found, state(1 if said else 2)), "never anything else than what was saved"
        assert not said or ("state.pt is damaged" in said and "going on from state.previous.pt" in said)
        refused += bool(said)
        before.write_bytes(previous)
    assert refused > 250
    for path in (newest, before):
        path.write_bytes(spoiled(whole, random.Random(1)))
    with pytest.raises(pipeline.UserError, match=r"state\.pt is damaged.*no earlier state.*--restart"):
        pipeline.Store(tmp_path, 1, True).load_state()


def test_code_in_a_checkpoint_is_not_run(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    for write in (lambda path: path.write_bytes(pickle.dumps(Evil())), lambda path: torch.save(Evil(), path)):
        write(tmp_path / "state.pt")
        with pytest.raises(pipeline.UserError, match="damaged, or no checkpoint"):
            pipeline.Store(tmp_path, 1, True).load_state()
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_something_else_is_refused(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6"}, tmp_path / "state.pt")
    with pytest.raises(pipeline.UserError, match=r"state\.pt was not written by this pipeline"):
        pipeline.Store(tmp_path, 1, True).load_state()


def test_a_flipped_bit_in_weights_is_noticed(pipeline: SimpleNamespace, tmp_path: Path) -> None:
    model, again = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    path = tmp_path / "best.safetensors"
    pipeline.save_weights(model.state_dict(), path, {"weights": "best epoch 1"})
    pipeline.load_weights(again, path)
    assert torch.equal(model[0].weight, again[0].weight)
    whole = bytearray(path.read_bytes())
    whole[-9] ^= 4
    path.write_bytes(whole)
    with pytest.raises(pipeline.UserError, match=r"best\.safetensors is damaged"):
        pipeline.load_weights(again, path)
    save_model(model, str(path))  # by another program, which keeps no checksum
    pipeline.load_weights(again, path)


class Gate:
    """Stands in for `torch.save`: it waits until it is opened, or raises what it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.opened, self.error, self.save = threading.Event(), error, torch.save
        monkeypatch.setattr(torch, "save", self)

    def __call__(self, *args: Any) -> None:
        assert self.opened.wait(60) and threading.current_thread() is not threading.main_thread()
        if self.error is not None:
            raise self.error
        self.save(*args)


def test_what_changes_while_a_state_is_written_does_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, steps, gate = nn.Linear(3, 2), [1], Gate(monkeypatch)
    store, values = CheckpointStore(tmp_path, 1, True), torch.arange(3.0)
    weight = model.weight.detach().clone()
    store.offer(model, Best(0, 0.5))
    store.save_state({"model": model.state_dict(), "values": values, "steps": steps})
    for tensor in (model.weight.data, values):
        tensor.zero_()
    steps.append(2)
    assert not (tmp_path / "state.pt").exists(), "the training goes on before the state is on disk"
    gate.opened.set()
    store.wait()
    found = CheckpointStore(tmp_path, 1, True).load_state()
    assert found is not None and found["steps"] == [1]
    assert torch.equal(found["model"]["weight"], weight) and torch.equal(found["values"], torch.arange(3.0))
    load_weights(model, store.file(0))
    assert torch.equal(model.weight, weight)


def test_what_a_writer_meets_is_said_by_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the state before, with its weights, and the weights that wait are written with the next."""
    store, model = CheckpointStore(tmp_path, 1, True), nn.Linear(3, 2)
    store.offer(model, Best(0, 0.5))
    store.save_state(state(0))
    store.wait()
    full = (
        "[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file data/3: file write failed"
    )
    gate = Gate(monkeypatch, RuntimeError(full))
    gate.opened.set()
    store.offer(model, Best(1, 0.7))
    store.save_state(state(1))
    with pytest.raises(UserError, match=r"cannot write .*state\.pt.*file write failed.*free space"):
        store.save_state(state(2))
    again = CheckpointStore(tmp_path, 1, True)
    before = again.load_state()
    assert before is not None and equal(before, state(0)) and again.best is not None
    load_weights(nn.Linear(3, 2), again.file(again.best.epoch))
    gate.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    store.save_state(state(2))
    with pytest.raises(RuntimeError, match=r"^CUDA error"):
        store.wait()
    gate.error = None
    store.save_state(state(2))
    store.wait()
    assert again.load_state() is not None and again.best is not None and again.best.epoch == 1
    load_weights(nn.Linear(3, 2), again.file(1))
    assert sorted(path.name for path in tmp_path.glob("epoch*")) == ["epoch_000.safetensors", "epoch_001.safetensors"]


def test_weights_that_cannot_be_written_are_not_named_by_a_later_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = CheckpointStore(tmp_path, 1, True), nn.Linear(3, 2)

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("No space left on device")

    store.offer(model, Best(0, 0.5))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.inference.weights.save_model", full)
        store.save_state(state(0))
        with pytest.raises(UserError, match="No space left"):
            store.wait()
    assert not (tmp_path / "state.pt").exists()
    store.save_state(state(0))  # as when a fold is left because of it
    store.wait()
    load_weights(model, store.file(0))


def test_a_copy_is_contiguous_and_what_is_tied_stays_tied() -> None:
    model = nn.ModuleDict({"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(3, 4, 3)}).to(memory_format=torch.channels_last)
    model["b"].weight = model["a"].weight
    found = host_copy({"model": model.state_dict(), "names": {"x"}})
    assert found["model"]["a.weight"].is_contiguous() and not model["a"].weight.is_contiguous()
    assert torch.equal(found["model"]["a.weight"], model["a"].weight)
    assert found["model"]["a.weight"].data_ptr() == found["model"]["b.weight"].data_ptr()
    assert found["model"]["a.bias"].data_ptr() != model["a"].bias.data_ptr()


@pytest.mark.parametrize("name", ["adamw", "adam", "lookahead_adamw", "adafactor", "lamb"])
def test_moments_fit_parameters_of_another_memory_format(name: str) -> None:
    """As where a run that a GPU has begun goes on without one, and the other way round: fused kernels would read the
    moments in the order of memory."""

    def trained(format: torch.memory_format) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3)).to(memory_format=format)
        settings = Optimizer(name=name, lr=0.1)
        return model, make_optimizer(model, settings, Registry(training.NAMES), fused=True)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape))
        optimizer.step()

    formats = torch.channels_last, torch.contiguous_format
    for first, second in (formats, formats[::-1]):
        model, optimizer = trained(first)
        step(model, optimizer, 1)
        state = copy.deepcopy(optimizer.state_dict())  # with its strides
        other, continued = trained(second)
        other.load_state_dict(model.state_dict())
        continued.load_state_dict(like_parameters(continued, state))
        for number, values in continued.state_dict()["state"].items():
            parameter = [one for group in continued.param_groups for one in group["params"]][number]
            for key, value in values.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(state["state"][number][key])), key
                if getattr(value, "shape", None) == parameter.shape:
                    assert value.stride() == parameter.stride(), key
        step(model, optimizer, 2)
        step(other, continued, 2)
        for one, same in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, same, rtol=1e-6, atol=1e-7)
