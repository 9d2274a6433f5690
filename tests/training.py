"""A small experiment on the demo data, and what its runs leave behind."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from projects import Renders, Result, imported, run_script

SMALL = """extends: demo
model: {encoder: test_resnet}
training: {epochs: 2, batch_size: 64}
machine: {workers: 0}
watch: {figure_epochs: 0, gradient_steps: 5}
"""
SMALL_MASKS = """extends: demo
image: {size: 64}
model: {encoder: test_resnet, params: {decoder_channels: [16, 16, 16, 8, 8]}}
training: {epochs: 2}
machine: {workers: 0}
"""


def demo_project(renders: Renders, target: Path, framework: str = "lightning", task: str = "classification") -> Path:
    """A project with demo data, folds, and the experiment `small` (two epochs of a tiny encoder)."""
    made = renders.folder / f"with-demo-{framework}-{task}"
    if not made.exists():
        renders.copy(made, {"trackers": [], "framework": framework, "task": task})
        (made / "experiments" / "small.yaml").write_text(SMALL_MASKS if task == "segmentation" else SMALL)
        for script in ("make_demo_data.py", "make_folds.py"):
            expect(run_script(made, script))
    return Path(shutil.copytree(made, target))


def add_callbacks(project: Path, code: str, **classes: str) -> None:
    """Give a project callbacks of its own: `code` in src/competition/callbacks.py, and a name for each class of it."""
    (project / "src/competition/callbacks.py").write_text(code)
    register(project, "callback", {name: f"competition.callbacks:{found}" for name, found in classes.items()})


def register(project: Path, kind: str, names: Mapping[str, str]) -> None:
    """Add names of a kind to a project's competition: name -> "module:attribute"."""
    entries = ", ".join(f'"{name}": "{reference}"' for name, reference in names.items())
    package = project / "src/competition/__init__.py"
    package.write_text(package.read_text().replace("names={", f'names={{\n        "{kind}": {{{entries}}},'))


def expect(result: Result, status: int = 0) -> Result:
    """The result, once its status is the expected one; errors are one line on standard error."""
    assert result.status == status, f"status {result.status}\n{result.stdout}\n{result.stderr}"
    if status == 2:
        assert result.last_line.startswith("error: "), result.stderr
        assert "Traceback" not in result.stderr
    return result


def killed(project: Path, kills: int, name: str, processes: int = 1, status: int = 0) -> str:
    """Train an experiment in processes of one thread that are killed so many times; what they say.

    With several processes they share each batch.
    """
    with tempfile.NamedTemporaryFile("r") as out:
        arguments = ["train.py", name, "--fold", "0"]
        job = {"project": str(project), "seed": 7, "kills": kills, "processes": processes, "arguments": arguments}
        fork_server = _fork_server()
        assert fork_server.stdin is not None and fork_server.stdout is not None
        print(json.dumps({**job, "out": out.name}), file=fork_server.stdin, flush=True)
        answer = fork_server.stdout.readline()
        said = out.read()
    assert answer.strip() == str(status), f"status {answer}\n{said}"
    return said


@functools.cache
def _fork_server() -> "subprocess.Popen[str]":
    """The process that forks, one for all tests: it ends with its standard input."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )


def outcome(project: Path, experiment: str, fold: str = "0") -> tuple[pd.DataFrame, dict[str, bytes], tuple[str, str]]:
    """Out-of-fold table, weights as bytes, and the texts of metrics.csv and gradients.csv of a finished fold, without
    times and what only a scaled loss has."""
    folder = project / "runs" / experiment / f"fold_{fold}"
    weights = {name: value.numpy().tobytes() for name, value in load_file(folder / "best.safetensors").items()}
    metrics = pd.read_csv(folder / "metrics.csv")
    kept = metrics[[column for column in metrics if not column.startswith(("time/", "fp16/"))]]
    logs = kept.to_csv(), (folder / "gradients.csv").read_text()
    return pd.read_parquet(folder / "oof.parquet"), weights, logs


def assert_same_outcome(first: tuple, second: tuple) -> None:
    """Bit for bit."""
    pd.testing.assert_frame_equal(first[0], second[0], check_exact=True)
    assert first[1] == second[1], "the weights differ"
    assert first[2] == second[2], "metrics.csv or gradients.csv differs"


def assert_close_maps(project: Path, first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Tables of masks hold the same, and probabilities that differ by 1/255. Sums of another order are rounded
    otherwise, and training carries that on, so one pixel in ten thousand may differ by 3/255."""
    maps = [name for name in first if isinstance(first[name].iloc[0], bytes)]
    assert maps
    pd.testing.assert_frame_equal(first.drop(columns=maps), second.drop(columns=maps))
    with imported(project):
        from toolkit.masks.maps import probability

        for name in maps:
            for one, other in zip(map(probability, first[name]), map(probability, second[name]), strict=True):
                apart = np.abs(one.astype(int) - other.astype(int))
                assert apart.max() <= 3, name
                assert (apart > 1).mean() < 1e-4, name
