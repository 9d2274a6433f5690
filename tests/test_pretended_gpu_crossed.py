"""What is quick to cross on the pretended GPU in one process: every optimiser, decoding, side columns, dynamo."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from pretended_gpu import ran
from projects import ROOT
from training import expect

pytestmark = pytest.mark.slow

# timm's own code asks for values in each step; after a state was loaded, torch's `nadam` has its product on the device.
WAITING = {"adamp", "cadamp", "csgdp", "sgdp", "kron", "kronc", "kronw", "novograd", "novogradc", "novogradw"}
RELOADED = WAITING | {"nadam"}


@functools.cache
def crossed(name: str) -> Any:
    """What a function of `pretended_gpu.crossed` returns there."""
    script = Path(__file__).parent / "pretended_gpu/crossed.py"
    return json.loads(expect(ran(ROOT / "template", str(script), name)).stdout.splitlines()[-1])


def test_every_optimiser_is_saved_loaded_and_stepped_there_as_on_a_cpu() -> None:
    found = crossed("optimizers")
    there = {name: one for name, one in found.items() if "refused" not in one}
    refused = set(found) - set(there)
    assert all(name == "adahessian" or name.startswith(("bnb", "fused")) for name in refused), refused
    apart = {name: one["apart"] for name, one in there.items() if not one["apart"] < 1e-6}
    assert len(there) > 80 and not apart


def test_optimisers_that_wait_are_known_and_those_that_know_a_flag_never_do() -> None:
    """The README's table names the latter; `test_optimizer` holds it against `knows_flags`."""
    there = {name: one for name, one in crossed("optimizers").items() if "refused" not in one}
    for place, waiting in enumerate((WAITING, RELOADED)):
        assert {name for name, one in there.items() if one["waits"][place]} == waiting
    by_flag = {name for name, one in there.items() if one["by_flag"]}
    assert by_flag == {"adam", "adamw", "adagrad"}


def test_a_held_out_batch_is_read_once_for_all_heads() -> None:
    for task, found in crossed("decoding").items():
        assert found == {"waits": 1, "same": True, "rows": 6}, task


def test_side_columns_and_several_losses_step_there_as_on_a_cpu() -> None:
    """Dynamo takes the device as well, so a compiled network is traced; nothing writes kernels for it, so that what
    `machine.compile` runs in the end is only seen on a real GPU (`tests/test_gpu.py`)."""
    found = crossed("side_columns")
    assert found["waits"] == 0
    for values in zip(*found["values"], strict=True):
        assert values[1] == pytest.approx(values[0], rel=1e-3, abs=1e-5)
    assert found["compiled"] > 0
