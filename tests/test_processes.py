"""Several processes that share each batch come to what one comes to."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engines import BARE, ENGINES, FIRST_ENGINE, bare_engine
from pipeline.data.loader import RowBatches, TrainBatches
from pipeline.data.samplers import shuffle
from projects import Renders, run_process
from toolkit.distributed import Processes, joined
from toolkit.errors import UserError
from toolkit.launch import free_port, must_launch
from training import add_callbacks, assert_close_maps, assert_same_outcome, demo_project, expect, killed, outcome

pytestmark = pytest.mark.slow

WATCH = '''
import json
import os
import signal

from pipeline.callbacks import Callback
from pipeline.types import Verdict


class Witness(Callback):
    """Writes down what each process sees of a batch: who is in it, and how large their losses are."""

    every_process = True
    changes_gradients = False

    def on_run_start(self, run):
        self.file = (run.folder / f"seen_{run.processes.rank}.jsonl").open("a", buffering=1)

    def on_batch_start(self, run, stage, batch):
        self.pixels = batch["input_image"].double().mean(dim=(1, 2, 3)).tolist()

    def on_batch_end(self, run, stage, batch, result):
        losses = result["sample_losses"]["label_cross_entropy"].tolist()
        batch_number = run.progress.batch if stage == "train" else -1  # held-out rows are compared as a whole
        seen = {"epoch": run.progress.epoch, "stage": stage, "batch": batch_number, "ids": batch["input_id"]}
        seen |= {"rows": batch["input_row"].tolist(), "pixels": self.pixels, "losses": losses}
        print(json.dumps(seen | {"loss": [result["loss"].item()]}), file=self.file)


class Double(Callback):
    """Doubles the gradients in each process, and takes a second pass over its share."""

    every_process = True

    def on_batch_end(self, run, stage, batch, result):
        if stage == "train":
            self.batch = batch

    def on_gradients_ready(self, run):
        run.run_step("train", self.batch)["loss"].backward()
        return Verdict.GO


class Stop(Callback):
    """Ends the process it lives in, once, as an impatient cluster would."""

    def on_batch_end(self, run, stage, batch, result):
        flag = run.folder / "stopped"
        if (run.progress.epoch, run.progress.batch) == (1, 7) and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGTERM)


class SkipOne(Callback):
    """Vetoes one step, on the main process only, where it lives."""

    def on_gradients_ready(self, run):
        return Verdict.SKIP if run.progress.step == 3 else Verdict.GO
'''
# No batch statistics, no dropout: what remains between one process and several is the order of sums.
SETTINGS = """extends: small
model: {encoder: test_convnext}
training: {epochs: 2, batch_size: 50, max_rows: 500, accumulate: 3, clip_grad: 0.5}
optimizer: {name: sgd, lr: 0.02, params: {momentum: 0.9}}
schedule: {name: plateau, params: {patience: 0, threshold: 0.5}}
averaging: {ema_decay: 0.9, best_epochs: 2}
callbacks: [Witness]
checkpoints: {save_minutes: 0.0001}
machine: {workers: 0, valid_batch_size: 32}
"""
MASKS = """extends: small
model: {encoder: test_convnext, params: {decoder_channels: [16, 8, 8, 8, 8], decoder_params: {decoder_use_norm: false}}}
training: {epochs: 2, batch_size: 16}
optimizer: {name: sgd, lr: 0.02, params: {momentum: 0.9}}
machine: {workers: 1, valid_batch_size: 10}
"""


def write(project: Path, text: str, *names: str) -> None:
    for name in names:
        (project / f"experiments/{name}.yaml").write_text(text)


def watched_project(renders: Renders, target: Path, engine: str) -> Path:
    project = demo_project(renders, target, ENGINES[0] if engine == BARE else engine)
    if engine == BARE:
        (project / "src/pipeline/engine/__init__.py").write_text(bare_engine())
    add_callbacks(project, WATCH, Witness="Witness", Double="Double", SkipOne="SkipOne", Stop="Stop")
    return project


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return watched_project(renders, tmp_path_factory.mktemp("processes") / "project", "lightning")


def seen(project: Path, name: str) -> pd.DataFrame:
    """What all processes saw, joined in their order: of each training batch, and of the held-out rows of each epoch."""
    files = sorted((project / f"runs/{name}/fold_0").glob("seen_*.jsonl"))
    lines = pd.DataFrame([json.loads(line) for file in files for line in file.read_text().splitlines()])
    return lines.groupby(["epoch", "stage", "batch"]).agg(lambda lists: list(itertools.chain(*lists)))


def assert_close_outcome(project: Path, first: str, second: str, tolerance: float = 1e-4) -> None:
    """The same out-of-fold table and the same numbers in metrics.csv and gradients.csv, up to the order of sums."""
    (table, weights, logs), (other, other_weights, other_logs) = (outcome(project, name) for name in (first, second))
    assert table["id"].is_unique
    assert table.drop(columns=other.columns[other.dtypes == np.float32]).equals(
        other.drop(columns=other.columns[other.dtypes == np.float32])
    )
    pd.testing.assert_frame_equal(table, other, check_exact=False, rtol=0, atol=tolerance)
    for name in weights:
        values, others = (np.frombuffer(each[name], np.float32) for each in (weights, other_weights))
        np.testing.assert_allclose(values, others, rtol=0, atol=tolerance, err_msg=name)
    for log, other_log in zip(logs, other_logs, strict=True):
        # The least of many gradients is near zero: it is made of rounding.
        frames = [pd.read_csv(io.StringIO(text)).filter(regex="(?<!/min)$") for text in (log, other_log)]
        pd.testing.assert_frame_equal(*frames, check_exact=False, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("engine", [*ENGINES, BARE])
def test_two_processes_come_to_what_one_comes_to(engine: str, renders: Renders, tmp_path: Path) -> None:
    """The same tables, weights, logs; what watches sees shares that are the batches of one process in their order."""
    project = watched_project(renders, tmp_path / "project", engine)
    write(project, SETTINGS, "one", "two", "cut")
    killed(project, 0, "one")
    said = killed(project, 0, "two", processes=2)
    assert "2 processes on cpu share each batch of 50" in said
    assert said.count("epoch  train loss") == 1, "only the main process prints"
    assert_close_outcome(project, "one", "two")
    one, two = seen(project, "one"), seen(project, "two")
    assert one.index.equals(two.index)
    for column in ("ids", "rows", "pixels"):
        assert one[column].tolist() == two[column].tolist(), column
    training = one.index.get_level_values("stage") == "train"
    assert set(one["ids"][training].str.len()) == {50}
    for mine, other in zip(one["losses"], two["losses"], strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)
    for [loss], both in zip(one["loss"][training], two["loss"][training], strict=True):
        np.testing.assert_allclose([loss, loss], both, atol=1e-4, err_msg="that of the whole batch in each process")
    said = killed(project, 2, "cut", processes=2)
    assert "going on at" in said
    assert_same_outcome(outcome(project, "two"), outcome(project, "cut"))


def test_crops_and_tiles_are_shared(renders: Renders, tmp_path: Path) -> None:
    """The tiles of an image lie in one share, and are put together as one process would do it."""
    project = demo_project(renders, tmp_path / "project", task="segmentation")
    write(project, MASKS, "one", "two")
    killed(project, 0, "one")
    killed(project, 0, "two", processes=2)
    (table, *_), (other, *_) = (outcome(project, name) for name in ("one", "two"))
    assert_close_maps(project, table, other)


@pytest.mark.parametrize("engine", FIRST_ENGINE)
def test_parts_that_do_not_train_for_a_while(engine: str, renders: Renders, tmp_path: Path) -> None:
    """An encoder that is frozen in the first epoch, and gradients that callbacks change or veto."""
    project = watched_project(renders, tmp_path / "project", engine)
    text = SETTINGS.replace("callbacks: [Witness]", "callbacks: [Double, SkipOne]")
    text += "interventions: [{epochs: [1, 1], set: {model.frozen: [encoder]}}]\n"
    write(project, text.replace("accumulate: 3, ", ""), "one", "two")
    killed(project, 0, "one")
    killed(project, 0, "two", processes=2)
    assert_close_outcome(project, "one", "two")


def test_a_run_goes_on_with_another_number_of_processes(project: Path) -> None:
    """How many processes there are is no setting of the experiment; a signal to one of them stops all."""
    write(project, SETTINGS, "whole")
    write(project, SETTINGS.replace("[Witness]", "[Witness, Stop]"), "changes")
    killed(project, 0, "whole")
    assert "fold 0 is saved at epoch 2, batch 9" in killed(project, 0, "changes", processes=2, status=130)
    assert "going on at epoch 2, batch 9" in killed(project, 0, "changes")
    assert_close_outcome(project, "whole", "changes")


def test_shares_are_the_batch_and_no_process_goes_without(renders: Renders) -> None:
    table = pd.DataFrame({"id": [str(row) for row in range(50)]})
    three = [Processes(rank, 3) for rank in range(3)]
    whole = list(TrainBatches(table, shuffle, 12, 0))
    shares = [list(TrainBatches(table, shuffle, 12, 0, each)) for each in three]
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == whole
    for count, size in [(50, 12), (49, 12), (3, 32), (13, 4), (7, 1)]:
        parts = [[list(batch) for batch in RowBatches(count, size, each)] for each in three]
        assert all(len(own) == len(RowBatches(count, size, each)) for own, each in zip(parts, three, strict=True))
        assert len({len(own) for own in parts}) == 1, "engines wait for each other in every batch"
        assert [row for own in parts for share in own for _, row in share] == list(range(count))
        assert all(share for own in parts for share in own)
    windows = [[list(batch) for batch in RowBatches(20, 6, each, [0, 9, 12, 13])] for each in three]
    firsts = [own[0][0][1] for own in windows]
    assert set(firsts) <= {0, 9, 12, 13} and len(set(firsts)) == 3, "the windows of an image lie in one process"
    with pytest.raises(UserError, match="4 rows are held out for 3 processes, too few for parts of about one size"):
        RowBatches(100, 6, three[0], [0, 97, 98, 99])
    with pytest.raises(UserError, match=r"3 processes share each batch of training.batch_size 32"):
        TrainBatches(table, shuffle, 32, 0, three[0])
    with pytest.raises(UserError, match=r"3 processes share each batch.* of 2 rows an epoch"):
        TrainBatches(table.iloc[:2], shuffle, 12, 0, three[0])
    with pytest.raises(UserError, match="2 rows are held out for 3 processes"):
        RowBatches(2, 32, three[0])
    with three[1].alone():
        assert list(TrainBatches(table, shuffle, 12, 0, three[1])) == whole


def test_an_environment_that_says_half_of_it(renders: Renders, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as processes:
        assert processes.size == 1 and must_launch(2) and not must_launch(1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not must_launch(2)
    with pytest.raises(UserError, match=r"WORLD_SIZE is 4.*RANK, LOCAL_RANK.*torchrun"), joined():
        pass


GATHER = """
import sys
sys.path.insert(0, "src")
import torch
from toolkit.distributed import joined

with joined() as processes:
    count = [3, 1][processes.rank]
    start = [0, 3][processes.rank]
    at = torch.arange(start, start + count)
    shares = processes.gather({"ids": [f"id {number}" for number in at], "at": at})
    if processes.is_main:
        assert [name for share in shares for name in share["ids"]] == [f"id {number}" for number in range(4)]
        assert torch.cat([share["at"] for share in shares]).tolist() == [0, 1, 2, 3]
    else:
        assert shares == []
    loss = torch.tensor(float(processes.rank), requires_grad=True)
    mean, half = processes.mean([loss, loss.detach().to(torch.bfloat16)])
    assert mean.item() == half.item() == 0.5 and half.dtype == torch.bfloat16 and not mean.requires_grad
    assert processes.from_main(lambda: processes.rank + 7) == 7
    assert processes.highest(processes.rank) == 1
    sys.stderr.write("fine")
"""


def test_shares_are_joined_on_the_main_process(renders: Renders) -> None:
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", GATHER],
            cwd=renders.shared(),
            env={**os.environ, **port, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for child in children:
        assert child.communicate(timeout=120)[1].endswith("fine")


LOST = """
import sys
sys.path.insert(0, "src")
from datetime import timedelta

import torch
from torch import distributed
from toolkit.distributed import joined
from toolkit.errors import run_script
from toolkit.launch import launch, must_launch


def main():
    if must_launch(2):
        sys.exit(launch(2))
    with joined() as processes:
        hasty = distributed.new_group(timeout=timedelta(seconds=1))
        if processes.rank in map(int, sys.argv[1:]):
            raise ValueError("a fault of one of them")
        distributed.recv(torch.zeros(1), src=1 - processes.rank, group=hasty)  # both wait


run_script(main)
"""


def test_processes_that_lose_each_other_say_so_once(renders: Renders, tmp_path: Path) -> None:
    """An error of gloo or NCCL in all of them has no other cause to wait for; with one, that is all that is said."""
    (tmp_path / "lost.py").write_text(LOST)
    for guilty, status in (((), 2), (("0",), 1), (("1",), 1)):
        command = [sys.executable, str(tmp_path / "lost.py"), *guilty]
        said = subprocess.run(command, cwd=renders.shared(), capture_output=True, text=True, timeout=120, check=False)
        assert said.returncode == status, said.stderr
        lost = said.stderr.count("error: the processes that train together lost each other: ")
        assert lost == (not guilty), said.stderr
        assert said.stderr.count("ValueError: a fault of one of them") == len(guilty), said.stderr
        assert guilty or ("gloo" in said.stderr and len(said.stderr.strip().splitlines()) == 1), said.stderr


def test_devices_starts_the_processes_and_ctrl_c_ends_them(project: Path) -> None:
    """`machine.devices=2` as a user types it: the same files as ever, one voice, and Ctrl-C leaves a state."""
    write(project, SETTINGS.replace("epochs: 2", "epochs: 80"), "long")
    command = [sys.executable, str(project / "scripts/train.py"), "long", "--fold", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    child = subprocess.Popen(
        [*command, "machine.devices=2", "machine.device=cpu"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    state = project / "runs/long/fold_0/checkpoints/state.pt"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)  # what a terminal does
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, out + err
    assert err.strip().splitlines()[-1].startswith("interrupted: fold 0 is saved at"), err
    assert err.count("interrupted:") == 1 and out.count("leaving after this step") == 1
    assert not any_running(project)


def any_running(project: Path) -> bool:
    """Whether a process of the project's scripts is still there."""
    found = subprocess.run(["pgrep", "-f", str(project / "scripts")], capture_output=True, text=True, check=False)
    return found.returncode == 0


def test_what_only_another_process_finds_is_said(project: Path, tmp_path: Path) -> None:
    """An image that only the second process reads is missing: one line, status 2, nobody left behind."""
    write(project, SETTINGS, "broken")
    folds = pd.read_csv(project / "folds/folds.csv", dtype={"id": str})
    held_out = folds[folds["fold"] == 0]["id"]
    image = next(path for path in (project / "data/raw/train_images").iterdir() if path.stem == held_out.iloc[30])
    hidden = image.rename(tmp_path / image.name)
    try:
        result = run_process(project, "train.py", "broken", "--fold", "0", "machine.devices=2", "machine.device=cpu")
    finally:
        hidden.rename(image)
    expect(result, 2)
    assert held_out.iloc[30] in result.last_line and result.stderr.count("error:") == 1
    assert not any_running(project)


def test_wrong_numbers_of_processes(project: Path) -> None:
    result = run_process(project, "train.py", "small", "training.batch_size=33", "machine.devices=2", "--as", "odd")
    assert "33" in expect(result, 2).last_line and "multiple" in result.last_line
    assert not (project / "runs/odd").exists()
