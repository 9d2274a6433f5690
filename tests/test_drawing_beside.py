"""Pictures that are drawn in a process of their own: where and when they are logged, and what ends with what."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import drawings
import pipeline.trackers
from pipeline.trackers import RunInfo, make_tracker
from projects import ROOT, Renders, imported
from test_tracking import table
from toolkit.plots import figures
from toolkit.plots.figures import png
from trackers import wandb_history, wandb_records
from training import demo_project

START = """
if __name__ == "__main__":  # which what draws runs as well, under another name
    import os, sys, time
    from functools import partial
    from pathlib import Path
    import drawings
    from pipeline.trackers import RunInfo, make_tracker
    info = RunInfo("demo", "one", "0", Path("fold_0"), {}, (), "id", 0)
"""
LATE = """
    tracker = make_tracker(info, ["wandb", "tensorboard"], beside=True)
    tracker.scalars({"loss": 0.0}, 0)
    tracker.scalars({"loss": 8.0}, 8)
    tracker.figure("samples", partial(drawings.line_once_there, 5, "gate"), 8)
    tracker.figure("other", partial(drawings.line, 4), 8)
    for step in (8, 9, 10):
        tracker.scalars({"more": float(step)}, step)
    print(Path("fold_0/metrics.csv").read_text())
    print(list(Path("fold_0/figures").glob("*")))
    Path("gate").touch()
    tracker.figure("samples", partial(drawings.line, 6), 16)  # waits for those of earlier steps
    print(sorted(path.name for path in Path("fold_0/figures").glob("*")))
    tracker.scalars({"loss": 16.0}, 16)
    tracker.summary({"accuracy": 0.5})
    tracker.finish(True)
"""
WAITING = """
    tracker = make_tracker(info, [], beside=True)
    tracker.figure("told", partial(drawings.told, "told"), 0)
    tracker.figure("late", partial(drawings.line_once_there, 5, "gate"), 0)
    try:
        while True:
            time.sleep(0.1)
    except KeyboardInterrupt:
        Path("gate").touch()
        tracker.finish(False)
"""


def start(folder: Path, code: str, name: str = "main.py") -> "subprocess.Popen[str]":
    """A program in a process and a session of its own, like a training."""
    (folder / name).write_text(START + code)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"WANDB_MODE": "offline", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # or each would look for fonts anew, and say so when slow
    environment["PYTHONPATH"] = f"{ROOT / 'template/src'}:{ROOT / 'tests'}"
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, name], cwd=folder, env=environment, start_new_session=True, **pipes)


def wait_for(is_so: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def info(tmp_path: Path) -> RunInfo:
    return RunInfo("demo", "one", "0", tmp_path / "fold_0", {}, (), "id", 0)


@pytest.mark.slow
def test_late_pictures_have_their_own_step_in_every_tracker(tmp_path: Path) -> None:
    job = start(tmp_path, LATE)
    out, errors = job.communicate(timeout=120)
    assert (job.returncode, errors) == (0, "")
    numbers, others = out.strip().split("\n\n")
    assert [line.split(",")[0] for line in numbers.splitlines()] == ["step", "0", "8", "9", "10"], "numbers do not wait"
    assert others.splitlines() == ["[]", "['other.png', 'samples.png']"]
    folder = tmp_path / "fold_0"
    last = {"samples": png(drawings.line(6)), "other": png(drawings.line(4))}
    assert {path.stem: path.read_bytes() for path in folder.glob("figures/*")} == last
    history = wandb_history(wandb_records(folder))
    assert list(history) == [0, 8, 9, 10, 16]
    assert {step: sorted(key for key in row if ":" not in key) for step, row in history.items()} == {
        0: ["loss"], 8: ["loss", "more"], 9: ["more"], 10: ["more"], 16: ["loss"]
    }  # fmt: skip
    kept = {
        (step, name): row[f"{name}:path"] for step, row in history.items() for name in last if f"{name}:path" in row
    }
    assert kept.keys() == {(8, "samples"), (8, "other"), (16, "samples")}
    [files] = folder.glob("wandb/offline-run-*/files")
    assert (files / kept[8, "samples"]).read_bytes() == png(drawings.line(5))
    events = EventAccumulator(str(folder / "tensorboard"))
    tags = events.Reload().Tags()
    assert set(tags["images"]) == set(last)
    drawn = [(event.step, event.encoded_image_string) for event in events.Images("samples")]
    assert drawn == [(8, png(drawings.line(5))), (16, last["samples"])]
    assert (events.Images("other")[0].width, events.Images("other")[0].height) == (200, 100)
    assert [event.step for event in events.Scalars("more")] == [8, 9, 10]


def test_what_draws_has_no_gpu_and_gives_way_and_ends(info: RunInfo, tmp_path: Path) -> None:
    tracker = make_tracker(info, [], beside=True)
    tracker.figure("told", partial(drawings.told, str(tmp_path / "told")), 0)
    tracker.summary({})
    found = json.loads((tmp_path / "told").read_text())
    assert not is_alive(found.pop("pid")), "before the run is called finished"
    blocked = [signal.SIGINT, signal.SIGTERM]
    nice = min(19, os.nice(0) + 10)
    assert found == {"gpus": "", "threads": "1", "nice": nice, "torch": False, "blocked": blocked}
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    assert (info.folder / "figures/told.png").is_file()
    tracker.figure("after", partial(drawings.line, 3), 1)
    tracker.finish(True)
    assert (info.folder / "figures/after.png").is_file()


@pytest.mark.parametrize("beside", [False, True])
def test_a_figure_that_fails_is_left_out(beside: bool, info: RunInfo, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = make_tracker(info, [], beside=beside)
    tracker.figure("bad", drawings.failing, 0)
    tracker.figure("good", partial(drawings.line, 3), 0)
    tracker.figure("own", lambda: drawings.line(4), 0)  # no process but this one can find it
    tracker.figure("whole", drawings.line(5), 0)
    tracker.finish(True)
    assert {path.stem for path in info.folder.glob("figures/*")} == {"good", "own", "whole"}
    assert capfd.readouterr().err == "note: a picture of fold 0 was left out: a figure of one's own is wrong\n"


def test_a_killed_process_costs_pictures_only(info: RunInfo, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = make_tracker(info, [], beside=True)
    tracker.figure("good", partial(drawings.line, 3), 0)
    tracker.figure("bad", drawings.killed, 1)
    tracker.figure("lost", partial(drawings.line, 3), 1)
    tracker.figure("next", partial(drawings.line, 3), 2)
    tracker.scalars({"loss": 1.0}, 3)
    tracker.finish(True)
    assert {path.stem for path in info.folder.glob("figures/*")} == {"good", "next"}
    assert [row["step"] for row in table(info.folder)] == ["3"]
    notes = capfd.readouterr().err.splitlines()
    assert notes == 2 * ["note: a picture of fold 0 was left out: what drew it was killed"]


def test_what_cannot_start_draws_in_place(info: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(figures, "ProcessPoolExecutor", refuse)
    tracker = make_tracker(info, [], beside=True)
    tracker.figure("good", partial(drawings.line, 3), 0)
    assert (info.folder / "figures/good.png").read_bytes() == png(drawings.line(3))


def test_a_run_that_fails_does_not_wait_for_all(
    info: RunInfo, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.trackers, "PATIENCE", 0.0)
    tracker = make_tracker(info, [], beside=True)
    for number in range(6):
        tracker.figure(f"{number}", partial(drawings.line_after, 0.2), 0)
    tracker.finish(False)
    drawn = {path.stem for path in info.folder.glob("figures/*")}
    notes = capfd.readouterr().err.splitlines()
    assert 0 < len(drawn) < 6 and len(drawn) + len(notes) == 6
    assert set(notes) == {"note: a picture of fold 0 was left out: the run ended before it was drawn"}


def test_the_end_of_a_run_waits_with_a_word(
    info: RunInfo, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.trackers, "PATIENCE", 0.0)
    tracker = make_tracker(info, [], beside=True)
    tracker.figure("slow", partial(drawings.line_after, 0.2), 0)
    tracker.summary({})
    assert capfd.readouterr() == ("fold 0: waiting for 1 pictures that are still being drawn\n", "")
    assert (info.folder / "figures/slow.png").is_file()


@pytest.mark.slow
def test_ctrl_c_and_kills_leave_no_process_and_no_noise(tmp_path: Path) -> None:
    for number, sent in ((signal.SIGINT, os.killpg), (signal.SIGKILL, os.kill)):
        folder = tmp_path / number.name
        folder.mkdir()
        job = start(folder, WAITING)
        wait_for((folder / "told").exists)
        pid = json.loads((folder / "told").read_text())["pid"]
        sent(job.pid, number)
        out, errors = job.communicate(timeout=180)
        assert out == "" and "Traceback" not in errors
        if number == signal.SIGINT:  # after a kill Python itself speaks of semaphores
            assert errors == ""
        wait_for(lambda child=pid: not is_alive(child))
        assert (folder / "fold_0/figures/late.png").exists() == (number == signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        "classification",
        *(pytest.param(task, marks=pytest.mark.full) for task in ("multitask", "metric_learning", "segmentation")),
    ],
)
def test_a_whole_fold_has_the_same_pictures_and_draws_none_itself(
    task: str, renders: Renders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    project = demo_project(renders, tmp_path / "project", task=task)
    monkeypatch.chdir(project)
    with imported(project):
        from competition import competition
        from pipeline.experiments import load_experiment
        from pipeline.project import Project
        from pipeline.training import fold
        from pipeline.training.setup import prepare
        from toolkit.plots import figures

        start_tracker, found = fold.make_tracker, {}
        for beside in (False, True):
            if beside:
                monkeypatch.setattr(figures, "png", lambda figure: pytest.fail("drawn in the process that trains"))
            monkeypatch.setattr(
                fold, "make_tracker", lambda info, names, beside, mine=beside: start_tracker(info, names, mine)
            )
            at = Project.at(project)
            config = load_experiment(at, "small", ["watch.figure_epochs=1", "training.max_rows=256"])
            fold.train(prepare(at, competition, "small", config), "0", restart=beside)
            folder = project / "runs/small/fold_0"
            found[beside] = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
    assert "left out" not in capfd.readouterr().err
    curves = Path("figures/learning_curves.png")  # of times as well
    assert found[True].keys() == found[False].keys() and len(found[True]) > 15
    assert {"gradients.png", "learning_curves.png"} <= {path.name for path in found[True]}
    assert [name for name, picture in found[True].items() if picture != found[False][name] and name != curves] == []


def test_what_draws_at_the_end_of_a_fold_needs_no_torch() -> None:
    """A process would take seconds to import it, and as much memory as a small training."""
    plots = "curves", "samples", "classes", "confusion_matrix", "numbers", "rankings", "labels", "masks"
    drawing = ", ".join(f"toolkit.plots.{name}" for name in plots)
    code = f"import sys, {drawing}, pipeline.tasks.segmentation.figures\nprint('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "template/src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
