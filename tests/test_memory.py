"""Where the memory of a GPU ends: the line that says what would fit, halves where nothing is trained, and a first step
that is tried before the first epoch and leaves no trace."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.inference.device import GIB, Halves, deterministic, is_out_of_memory, memory_words
from pipeline.training.memory import moments, remedies
from projects import Renders, run_script
from training import add_callbacks, assert_same_outcome, demo_project, expect, outcome, register

CPU = torch.device("cpu")
TOO_LITTLE = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB."
# Runs out of memory for more rows, or larger images, than the environment allows in a mode.
FULL = '''"""An encoder that needs much memory."""

import os

import torch


class Full(torch.nn.Module):
    def __init__(self, in_chans, pretrained):
        super().__init__()
        self.num_features, self.layer, self.norm = 3, torch.nn.Linear(3, 3), torch.nn.BatchNorm2d(3)

    def forward(self, image):
        most = int(os.environ.get("FULL_TRAIN" if self.training else "FULL_VALID", 1_000))
        if len(image) > most or image.shape[2] > int(os.environ.get("FULL_SIDE", 1_000)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has")
        return self.layer(self.norm(image).mean(dim=(2, 3)))
'''
TRIED = 'if device.type == "cpu":\n        return\n'


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = demo_project(renders, tmp_path_factory.mktemp("memory") / "project")
    (project / "src/competition/full.py").write_text(FULL)
    register(project, "encoder", {"full": "competition.full:Full"})
    text = "extends: small\nmodel: {encoder: full}\ntraining: {max_rows: 64, epochs: 2}\n"
    for name in ("full", "large", "tried"):
        (project / f"experiments/{name}.yaml").write_text(text)
    return project


@pytest.fixture
def tries(project: Path) -> Iterator[None]:
    """The first step is tried on a CPU as well."""
    module = project / "src/pipeline/training/memory.py"
    before = module.read_text()
    assert TRIED in before
    module.write_text(before.replace(TRIED, "pass\n"))
    yield
    module.write_text(before)


def batch_of(count: int) -> dict[str, Any]:
    numbers = torch.arange(count)
    return {
        "input_id": [f"row {k}" for k in range(count)],
        "input_image": numbers.view(count, 1, 1).expand(count, 2, 2),
        "more": {"array": numbers.numpy(), "pair": tuple(range(count)), "scalar": torch.tensor(3)},
        "name": "a word",
    }


class Run:
    """What runs out of memory for more than `most` samples."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        self.most, self.error = most, error or torch.OutOfMemoryError(TOO_LITTLE)
        self.sizes: list[int] = []

    def __call__(self, batch: dict[str, Any]) -> torch.Tensor:
        self.sizes.append(len(batch["input_id"]))
        if self.sizes[-1] > self.most:
            raise self.error
        return batch["input_image"].sum(dim=(1, 2))


@pytest.mark.parametrize("error", [None, RuntimeError("MPS backend out of memory")])
def test_halves_are_the_batch_and_what_fits_is_found_once(
    error: Exception | None, capsys: pytest.CaptureFixture[str]
) -> None:
    run, halves, batch = Run(3, error), Halves(), batch_of(13)
    parts = list(halves(run, batch))
    assert [name for part, _ in parts for name in part["input_id"]] == batch["input_id"]
    assert torch.equal(torch.cat([result for _, result in parts]), 4 * torch.arange(13))
    for part, _ in parts:
        numbers = part["input_image"][:, 0, 0].tolist()
        assert part["more"]["array"].tolist() == list(part["more"]["pair"]) == numbers
        assert part["more"]["scalar"].item() == 3 and part["name"] == "a word"
    assert run.sizes == [13, 6, 3, 3, 3, 3, 1]
    assert [len(part["input_id"]) for part, _ in halves(run, batch_of(7))] == [3, 3, 1]
    assert run.sizes[7:] == [3, 3, 1], "nothing that is known not to fit is tried again"
    assert capsys.readouterr().out.count("3 at once") == 1


def test_what_fits_is_passed_on_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    batch = batch_of(5)
    [(part, _)] = Halves()(Run(5), batch)
    assert part is batch and capsys.readouterr().out == ""


def test_what_no_half_would_help_stays_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(Halves()(Run(0), batch_of(4)))
    with pytest.raises(ValueError, match="a fault of the code"):
        list(Halves()(Run(0, ValueError("a fault of the code")), batch_of(4)))
    for key, value in (("boxes", torch.zeros(9, 4)), ("more", {"rows": [1, 2]})):
        run = Run(2)
        with pytest.raises(torch.OutOfMemoryError):
            list(Halves()(run, {**batch_of(4), key: value}))
        assert run.sizes == [4], "nobody knows which of these belong to a half"


def test_an_error_of_memory_is_known_by_its_type() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("in other words"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"))
    for error in (RuntimeError("shapes cannot be multiplied"), ValueError("CUDA out of memory"), MemoryError()):
        assert not is_out_of_memory(error)


def gpu(monkeypatch: pytest.MonkeyPatch, free: float, own: float, processes: str) -> None:
    module = SimpleNamespace(
        mem_get_info=lambda _device: (int(free * GIB), int(15.8 * GIB)),
        memory_reserved=lambda _device: int(own * GIB),
        list_gpu_processes=lambda _device: processes,
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _device: module)


def test_another_process_is_named_where_it_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    error, own = torch.OutOfMemoryError(TOO_LITTLE), f"process {os.getpid():>10d} uses     3072.000 MB GPU memory"
    other = f"GPU:0\nprocess {os.getpid() + 1:>10d} uses    12595.000 MB GPU memory\n"
    gpu(monkeypatch, free=0.2, own=15.2, processes=f"GPU:0\n{own}")
    assert memory_words(CPU, error) == (
        "the GPU has too little memory for 2.50 GiB more: this run holds 15.2 of 15.8 GiB"
    )
    gpu(monkeypatch, free=0.2, own=3.3, processes=other + own)
    assert memory_words(CPU, error).endswith(f"and 12.3 are held by another process ({os.getpid() + 1})")
    for unknown in (other, "pynvml module not found, please install nvidia-ml-py"):  # a container, or no NVML
        gpu(monkeypatch, free=0.2, own=3.3, processes=unknown)
        assert memory_words(CPU, error).endswith("and 12.3 are held by another process")


class Encoder(nn.Module):
    def __init__(self, can: bool) -> None:
        super().__init__()
        self.can = can

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        assert self.can or not enable, "gradient checkpointing not supported"


def trainer_of(batch: int, size: tuple[int, int], can: bool = True, on: bool = False, processes: int = 1) -> Any:
    config = SimpleNamespace(
        training=SimpleNamespace(accumulate=3),
        model=SimpleNamespace(grad_checkpointing=on),
        image=SimpleNamespace(size=size),
    )
    return SimpleNamespace(
        parts={"train": SimpleNamespace(config=config)},
        processes=SimpleNamespace(size=processes),
        phases=SimpleNamespace(batches=SimpleNamespace(batch_size=batch)),
        model=nn.Sequential(Encoder(can)),
    )


def test_what_would_fit_is_said_as_it_is_typed() -> None:
    checkpoints = "model.grad_checkpointing=true"
    half = "training.batch_size=16 training.accumulate=6"
    assert remedies(trainer_of(32, (224, 224))) == [half, checkpoints, "image.size=160"]
    assert remedies(trainer_of(33, (512, 384), can=False)) == [half, "image.size=[352,256]"]
    assert remedies(trainer_of(42, (32, 32), on=True, processes=4)) == [half.replace("16", "20")]
    assert remedies(trainer_of(1, (64, 64))) == [checkpoints, "image.size=32"]


def test_training_says_what_would_fit_and_that_fits(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FULL_TRAIN", "32")
    said = expect(run_script(project, "train.py", "full", "image.size=64", "--as", "less", "--fold", "0"), 2).last_line
    assert "too little memory for 2.50 GiB more" in said and "image.size=32" in said
    found = re.search(r"training\.batch_size=\d+ training\.accumulate=\d+", said)
    assert found is not None and found[0] == "training.batch_size=32 training.accumulate=2"
    assert not (project / "runs/less").exists(), "nothing was trained"
    finder = expect(run_script(project, "find_lr.py", "full", "--steps", "10"), 2).last_line
    assert found[0] in finder and "too little memory" in finder
    expect(run_script(project, "train.py", "full", *found[0].split(), "--as", "fits", "--fold", "0"))


def test_validation_and_prediction_go_on_with_halves(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the batches had been that small from the start."""
    settings = ("averaging.ema_decay=0.9", "averaging.best_epochs=2")
    small = ("machine.valid_batch_size=8", "--as", "small-batches")
    expect(run_script(project, "train.py", "full", *settings, *small, "--fold", "0"))
    monkeypatch.setenv("FULL_VALID", "8")
    trained = expect(run_script(project, "train.py", "full", *settings, "--as", "halved", "--fold", "0"))
    assert trained.stdout.count("8 at once") == 2, "once in training, once for the held-out rows"
    assert_same_outcome(outcome(project, "small-batches"), outcome(project, "halved"))
    for name in ("small-batches", "halved"):
        said = expect(run_script(project, "predict.py", name, "--fold", "0"))
        assert said.stdout.count("8 at once") == (name == "halved")
    tables = [pd.read_parquet(project / f"runs/{name}/test.parquet") for name in ("small-batches", "halved")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    monkeypatch.setenv("FULL_VALID", "0")
    full = expect(run_script(project, "predict.py", "halved", "--fold", "0"), 2)
    assert "GPU has too little memory" in full.last_line and "image.size" in full.last_line


def test_the_largest_step_is_tried_before_the_first_epoch(
    project: Path, tries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second epoch has the larger images."""
    monkeypatch.setenv("FULL_SIDE", "32")
    text = (project / "experiments/large.yaml").read_text()
    images = "image: {size: 64}\ninterventions: [{epochs: [1, 1], set: {image.size: 32}}]\n"
    (project / "experiments/large.yaml").write_text(text + images)
    monkeypatch.setattr(torch.cpu, "mem_get_info", lambda _device: (GIB, 2 * GIB), raising=False)
    monkeypatch.setattr(torch.cpu, "memory_reserved", lambda _device: GIB // 2, raising=False)
    said = expect(run_script(project, "train.py", "large", "--fold", "0"), 2)
    assert "this run holds 0.5 of 2.0 GiB" in said.last_line
    assert "train loss" not in said.stdout and not (project / "runs/large").exists()


@pytest.mark.parametrize(
    ("name", "settings"), [("AdamW", {}), ("SGD", {"momentum": 0.9}), ("SGD", {}), ("RAdam", {}), ("Adagrad", {})]
)
def test_what_an_optimiser_will_remember_is_counted_in(name: str, settings: dict[str, float]) -> None:
    layer = torch.nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.1, **settings)
    ahead = sum(one.numel() for group in optimizer.param_groups for one in moments(group))
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    made = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    if name == "Adagrad":  # which makes its sums at once, and so has a state before it steps
        assert ahead == 0
    else:
        assert ahead == sum(value.numel() for value in made if value.ndim)


DRAWS = '''
import random

import numpy as np
import torch

from pipeline.callbacks import Callback


class Draws(Callback):
    """Draws from every generator before the first step, and in each held-out batch; and notes what trains."""

    def on_run_start(self, run):
        self.note(run)
        assert all(parameter.grad is None for parameter in run.model.parameters())
        assert all(parameter.requires_grad for parameter in run.model.network.parameters())

    def on_batch_end(self, run, stage, batch, result):
        if stage == "valid":
            self.note(run)

    def note(self, run):
        with (run.folder / "draws.txt").open("a") as file:
            print(random.random(), np.random.rand(), torch.rand(1).item(), file=file)
'''


def test_a_step_that_was_tried_leaves_no_trace(
    project: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """With batch norm, dropout, mixup, a frozen part and several phases: the same bits as without."""
    add_callbacks(project, DRAWS, draws="Draws")
    text = "extends: small\ncallbacks: [draws]\nmodel: {drop_rate: 0.3}\noptimizer: {params: {betas: [0.8, 0.9]}}\n"
    text += "training: {max_rows: 64, batch_size: 16, accumulate: 2, batch_transforms: [mixup]}\ninterventions:\n"
    text += "- {epochs: [1, 1], set: {image.size: 32, model.frozen: [encoder]}}\n"
    names = ("without", "with")
    for name in names:
        (project / f"experiments/{name}.yaml").write_text(text)
    assert "first step tried" not in expect(run_script(project, "train.py", "without", "--fold", "0")).stdout
    request.getfixturevalue("tries")
    said = expect(run_script(project, "train.py", "with", "--fold", "0")).stdout
    assert said.count("first step tried in") == 1 and "could not be tried" not in said
    assert_same_outcome(*(outcome(project, name) for name in names))
    draws = [(project / f"runs/{name}/fold_0/draws.txt").read_text() for name in names]
    assert draws[0] == draws[1] and len(draws[0].splitlines()) > 2


def test_what_else_fails_is_told_by_the_first_step(project: Path, tries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULL_TRAIN", "no number")
    said = run_script(project, "train.py", "tried", "--fold", "0")
    assert "the first step could not be tried before the first epoch (ValueError)" in said.stdout
    assert said.status == 1 and "invalid literal for int" in said.last_line


def modes() -> tuple[Any, ...]:
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    attention = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()
    mode, workspace = torch.get_deterministic_debug_mode(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    return mode, workspace, cudnn.deterministic, cudnn.benchmark, *attention


@pytest.mark.filterwarnings("error")
def test_what_has_no_deterministic_algorithm_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = modes()
    with deterministic(False):
        assert modes() == before
    with pytest.raises(ValueError, match="left"), deterministic(True):
        assert modes() == (1, ":4096:8", True, False, False, False, False)
        for _ in range(3):
            torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))
        raise ValueError("left")
    assert modes() == before
    out = capsys.readouterr().out
    assert out.count("machine.deterministic: put_ has no deterministic algorithm") == 1 and out.count("\n") == 1


NO_PUT = "put_ has no deterministic algorithm"
PUTS = """
import torch

from pipeline.callbacks import Callback
from pipeline.data.augment import resize


def put():
    assert torch.are_deterministic_algorithms_enabled()
    torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))


class Puts(Callback):
    def on_batch_end(self, run, stage, batch, result):
        put()


def augmentations(stage, size):
    put()
    return resize(stage, size)
"""


def test_a_deterministic_training_is_no_other_experiment(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    add_callbacks(project, PUTS, puts="Puts")
    register(project, "augmentations", {"puts": "competition.callbacks:augmentations"})
    text = "extends: small\ncallbacks: [puts]\naugmentations: puts\ntraining: {max_rows: 64}\n"
    (project / "experiments/sure.yaml").write_text(text)
    before = modes()
    said = expect(run_script(project, "train.py", "sure", "machine.deterministic=true", "--fold", "0")).stdout
    assert said.count(NO_PUT) == 1
    assert modes() == before
    found = expect(run_script(project, "find_lr.py", "sure", "machine.deterministic=true", "--steps", "10")).stdout
    predicted = expect(run_script(project, "predict.py", "sure", "--fold", "0")).stdout
    assert found.count(NO_PUT) == predicted.count(NO_PUT) == 1, "as the run was trained"
    assert modes() == before
    assert "nothing to do" in expect(run_script(project, "train.py", "sure", "--fold", "0")).stdout
    assert np.isfinite(outcome(project, "sure")[0].select_dtypes("number")).all(axis=None)
