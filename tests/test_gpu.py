"""On a real GPU: `make test-gpu`. With TEST_GPU=cpu the same bodies run on the CPU, to see that they are sound.

Device and precision are what `auto` chooses.
"""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # what forks later must not have started CUDA before

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import test_non_finite
from engines import ENGINES
from projects import Renders, run_script
from test_engine_kills import EVERYTHING
from test_non_finite import project as planted  # noqa: F401 - a fixture
from test_resume import IDEAS
from test_tasks import GOALS, QUICK
from toolkit.launch import free_port
from training import SMALL_MASKS, add_callbacks, assert_same_outcome, demo_project, expect, killed, outcome

ON_GPU = torch.cuda.is_available()
TASKS = ("classification", *GOALS, "segmentation")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ON_GPU and os.environ.get("TEST_GPU") != "cpu", reason="there is no GPU here"),
]
only_there = pytest.mark.skipif(not ON_GPU, reason="a CPU has no fp16")

STRICT = '''
import torch

from pipeline.callbacks import Callback


class Strict(Callback):
    """Lets no step of the second epoch wait for the device, from its first batch to the end of its last one."""

    def on_run_start(self, run):
        ends = run.batch_end

        def batch_end():
            ends()
            if run.progress.epoch == 1 and run.progress.batch == run.batches_per_epoch:
                self.let(0)
                (run.folder / "steps.txt").write_text(str(run.progress.batch))

        run.batch_end = batch_end

    def on_batch_start(self, run, stage, batch):
        if stage == "train" and run.progress.epoch == 1:
            self.let("error")

    def let(self, mode):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(mode)
'''

ONE_GPU = """
import runpy
import sys

import torch

start = torch.distributed.init_process_group
torch.distributed.init_process_group = lambda _, **more: start("gloo", **more)  # NCCL wants a GPU for each process
del sys.argv[0]
sys.path.insert(0, "scripts")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo competition under the default engine."""
    return demo_project(renders, tmp_path_factory.mktemp("gpu") / "project")


def train(project: Path, name: str, *settings: str) -> str:
    """Train a variation of `small` on fold 0; what it says."""
    return expect(run_script(project, "train.py", "small", *settings, "--as", name, "--fold", "0")).stdout


def apart(first: Path, second: Path) -> float:
    """How far the best weights of two folds lie apart: the largest difference of a weight."""
    one, other = (load_file(folder / "best.safetensors") for folder in (first, second))
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", TASKS)
def test_a_task_walks_to_a_checked_submission(task: str, engine: str, renders: Renders, tmp_path: Path) -> None:
    project = renders.copy(tmp_path / "project", {"task": task, "framework": engine, "trackers": []})
    text = SMALL_MASKS if task == "segmentation" else QUICK.replace("epochs: 3", "epochs: 2")
    (project / "experiments/quick.yaml").write_text(text)
    expect(run_script(project, "make_demo_data.py"))
    expect(run_script(project, "make_folds.py", "--n-folds", "3"))
    expect(run_script(project, "train.py", "quick", "--fold", "0"))
    for script in ("evaluate.py", "predict.py", "submit.py"):
        expect(run_script(project, script, "quick"))
    assert (project / "submissions/quick.csv").is_file()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_continued_run_lies_no_further(
    engine: str, renders: Renders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two undisturbed runs of one command differ by the order of sums; a killed one by no more than twice that."""
    project = demo_project(renders, tmp_path / "project", engine)
    add_callbacks(project, IDEAS, Remember="Remember")
    for name in ("whole", "again", "killed"):
        (project / f"experiments/{name}.yaml").write_text(EVERYTHING)
        said = killed(project, 3 if name == "killed" else 0, name)
    assert said.count("going on at") >= 2
    whole, again, late = (project / f"runs/{name}/fold_0" for name in ("whole", "again", "killed"))
    between, beyond = apart(whole, again), min(apart(whole, late), apart(again, late))
    with capsys.disabled():  # of the two streams of a worker, a terminal sees this one
        print(f"\n{engine}: undisturbed runs lie {between:.3g} apart, a continued one {beyond:.3g}", file=sys.stderr)
    assert beyond <= 2 * between
    assert (whole / "count.txt").read_text() == (late / "count.txt").read_text(), "a callback's memory"


@pytest.mark.parametrize("engine", ENGINES)
def test_deterministic_runs_are_equal_to_the_bit(engine: str, renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project", engine)
    add_callbacks(project, IDEAS, Remember="Remember")
    for name in ("whole", "killed"):
        text = f"{EVERYTHING}machine: {{deterministic: true}}\n"
        (project / f"experiments/{name}.yaml").write_text(text)
        killed(project, 3 if name == "killed" else 0, name)
    assert_same_outcome(outcome(project, "whole"), outcome(project, "killed"))


def test_bf16_and_compile(project: Path) -> None:
    """Both learn, and a compiled run predicts what a plain one does, but for rounding."""
    for name, settings in {"bf16": (), "compiled": ("machine.compile=true",)}.items():
        train(project, name, "training.precision=bf16", *settings)
        expect(run_script(project, "evaluate.py", name, "--fold", "0"))
    first, second = (pd.read_parquet(project / f"runs/{name}/fold_0/oof.parquet") for name in ("bf16", "compiled"))
    columns = [name for name in first if name.startswith("label:")]
    same = first[columns].to_numpy().argmax(axis=1) == second[columns].to_numpy().argmax(axis=1)
    assert np.isfinite(first[columns].to_numpy()).all() and same.mean() > 0.7


@only_there
def test_an_overflow_of_fp16_is_left_out(project: Path) -> None:
    """Losses a thousand times as large overflow until the scaler has found its scale; the run learns all the same."""
    losses = "losses=[{loss: cross_entropy, head: label, weight: 1000}]"
    train(project, "fp16", losses, "training.precision=fp16")
    metrics = pd.read_csv(project / "runs/fp16/fold_0/metrics.csv")
    assert metrics["fp16/overflows"].max() > 0
    weights = load_file(project / "runs/fp16/fold_0/best.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("name", test_non_finite.FAULTS)
def test_a_planted_nan_is_named_as_on_a_cpu(planted: Path, name: str) -> None:  # noqa: F811
    test_non_finite.test_named_and_replayed(planted, name)


def test_a_rate_is_found(project: Path) -> None:
    said = expect(run_script(project, "find_lr.py", "small", "--steps", "40")).stdout
    assert (project / "runs/lr_finder/small.png").is_file() and "the suggestion" in said


def test_pictures_with_grad_cam(project: Path) -> None:
    train(project, "pictures", "watch.figure_epochs=1")
    figures = project / "runs/pictures/fold_0/figures"
    for name in ("grad_cam/fixed", "grad_cam/worst", "samples", "confusion_matrix/label"):
        assert (figures / f"{name}.png").is_file(), name


@pytest.mark.parametrize("engine", ENGINES)
def test_no_step_of_an_ordinary_epoch_waits(engine: str, renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project", engine)
    add_callbacks(project, STRICT, strict="Strict")
    try:
        train(project, "strict", "callbacks=[strict]", "tracking.every_steps=5")
    finally:
        if ON_GPU:
            torch.cuda.set_sync_debug_mode(0)
    steps = int((project / "runs/strict/fold_0/steps.txt").read_text())
    assert steps == max(pd.read_csv(project / "runs/strict/fold_0/metrics.csv")["step"]) // 2 > 10


@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_share_a_gpu(engine: str, renders: Renders, tmp_path: Path) -> None:
    """They come to what one process comes to, but for the order of sums."""
    project = demo_project(renders, tmp_path / "project", engine)
    train(project, "alone", "training.epochs=1", "training.precision=fp32")
    (project / "experiments/shared.yaml").write_text((project / "experiments/alone.yaml").read_text())
    of_all = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_GPU, "scripts/train.py", "shared", "--fold", "0"],
            cwd=project,
            env={**os.environ, **of_all, "RANK": str(rank), "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [child.communicate(timeout=240)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], "\n".join(said)
    first, second = (pd.read_parquet(project / f"runs/{name}/fold_0/oof.parquet") for name in ("alone", "shared"))
    columns = [name for name in first if name.startswith("label:")]
    assert (first["id"] == second["id"]).all()
    np.testing.assert_allclose(first[columns], second[columns], atol=0.1)
