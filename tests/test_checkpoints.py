"""A checkpoint is read as it was written, or refused by name: never half of it, never code in it."""

import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from pipeline.inference.weights import load_weights, save_weights
from pipeline.training.checkpoints import CheckpointStore
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
    pipeline.save_weights(model, path, {"weights": "best epoch 1"})
    pipeline.load_weights(again, path)
    assert torch.equal(model[0].weight, again[0].weight)
    whole = bytearray(path.read_bytes())
    whole[-9] ^= 4
    path.write_bytes(whole)
    with pytest.raises(pipeline.UserError, match=r"best\.safetensors is damaged"):
        pipeline.load_weights(again, path)
    save_model(model, str(path))  # by another program, which keeps no checksum
    pipeline.load_weights(again, path)
