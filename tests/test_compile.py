"""`machine.compile`: the same training, compiled."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.utils

from projects import Renders, run_script
from training import demo_project, expect, outcome


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU torch.compile needs g++")
def test_a_compiled_training_gives_the_same_predictions(renders: Renders, tmp_path: Path) -> None:
    """And weights under the same names: a compiled run predicts and continues without compiling."""
    project = demo_project(renders, tmp_path / "project")
    settings = ("training.epochs=1", "training.max_rows=256", "averaging.ema_decay=0.9")
    expect(run_script(project, "train.py", "small", *settings, "--as", "plain", "--fold", "0"))
    compiled = ("machine.compile=true", "--as", "compiled", "--fold", "0")
    expect(run_script(project, "train.py", "small", *settings, *compiled))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "something was compiled"
    first, second = outcome(project, "plain"), outcome(project, "compiled")
    assert first[1].keys() == second[1].keys()
    columns = [name for name in first[0] if name.startswith("label:")]
    np.testing.assert_allclose(first[0][columns], second[0][columns], atol=0.03)
    expect(run_script(project, "predict.py", "compiled", "--fold", "0"))
