"""`training.precision`, as far as a CPU can tell: bf16 computes in half precision and keeps its weights in float32."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from projects import Renders, run_script
from training import add_callbacks, demo_project, expect, outcome

pytestmark = pytest.mark.slow

WATCH = '''
from pipeline.callbacks import Callback


class Dtypes(Callback):
    """Writes down what the network computes in, and what its weights and their gradients are."""

    def on_batch_end(self, run, stage, batch, result):
        weights = {str(p.dtype) for p in run.model.parameters()}
        line = f"{stage} {result['outputs']['output_label'].dtype} {result['loss'].dtype} {sorted(weights)}"
        with (run.folder / "dtypes.txt").open("a") as file:
            print(line, file=file)
'''


def test_bf16_trains_in_half_precision_and_keeps_float32(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    add_callbacks(project, WATCH, dtypes="Dtypes")
    settings = ("training.epochs=4", "averaging.ema_decay=0.9", "callbacks=[dtypes]", "--fold", "0")
    for precision in ("bf16", "fp32"):
        name = ("--as", precision)
        expect(run_script(project, "train.py", "small", f"training.precision={precision}", *settings, *name))
    lines = set((project / "runs/bf16/fold_0/dtypes.txt").read_text().splitlines())
    assert lines == {f"{stage} torch.bfloat16 torch.float32 ['torch.float32']" for stage in ("train", "valid")}
    half, full = outcome(project, "bf16"), outcome(project, "fp32")
    assert half[1] != full[1]
    weights = load_file(project / "runs/bf16/fold_0/best.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    columns = [name for name in half[0] if name.startswith("label:")]
    same = half[0][columns].to_numpy().argmax(axis=1) == full[0][columns].to_numpy().argmax(axis=1)
    assert same.mean() > 0.7, "it says the same about most rows"


def test_fp16_needs_a_gpu(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    settings = ("training.precision=fp16", "machine.device=cpu", "--as", "fp16", "--fold", "0")
    said = expect(run_script(project, "train.py", "small", *settings), 2)
    assert "fp16 needs a GPU" in said.last_line and not (project / "runs/fp16").exists()
