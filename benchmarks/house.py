"""How much of a rendered repository a reader meets: lines in all, and what a batch, a row or a prediction passes.

Counted in the default render: lines of its pipeline and toolkit, methods of the interfaces of a head and of a task, and
the functions of its `src` that are entered between the ends of two ordinary batches, and from the logits of the test
rows to the cells of the submission, with the files they stand in. For a held-out row these are the files from
`train.csv` over folds, dataset, loader, step and decoding to its cell in `oof.parquet`, whatever happens beside.
"""

import importlib
import inspect
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch

import copier
from rich.console import Console
from rich.table import Table

from benchmarks import ROOT
from projects import imported, run_script

# The budgets, and what is known of others: https://github.com/facebookresearch/detr and Henkel's competition skeleton.
BUDGETS = {
    "lines of src/pipeline and src/toolkit": 11_000,
    "methods of a head": 12,
    "methods of a task": 12,
    "functions a training batch enters": 45,
    "files a training batch enters": 20,
    "functions a prediction enters": 35,
    "files a prediction enters": 12,
    "files a row passes to its out-of-fold cell": 27,
    "lines of these files": 4_200,
}
OTHERS = {
    "functions a training batch enters": "DETR 12, Henkel 14",
    "files a training batch enters": "DETR 6, Henkel 4",
}
SETTINGS = ["model.encoder=test_resnet", "training.epochs=1", "training.batch_size=32", "training.max_rows=128"]
ORDINARY = ["machine.workers=0", "machine.device=cpu", "watch.figure_epochs=0", "watch.gradient_steps=50"]


def render(folder: Path) -> Path:
    """The default answers as a project with demo data and folds."""
    copier.run_copy(str(ROOT), folder, data={"trackers": []}, defaults=True, quiet=True, vcs_ref="HEAD")
    for script in ("make_demo_data.py", "make_folds.py"):
        done = run_script(folder, script)
        if done.status:
            raise RuntimeError(f"{script} failed: {done.stderr}")
    return folder


class Trace:
    """The functions of a project's `src` that are entered while it runs, and with `callers` what calls those it runs
    for."""

    def __init__(self, project: Path, callers: bool = False) -> None:
        self.source, self.callers = str(project / "src"), callers
        self.found: set[CodeType] = set()

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(self.source) and not code.co_name.startswith("<"):
            self.found.add(code)

    def during(self, owner: Any, name: str, stage: str = "") -> Any:
        """A patch under which it runs while a function does (in this stage only)."""
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if stage and stage not in args:
                return function(*args, **kwargs)
            if self.callers:
                self.note(sys._getframe(1), "call", None)
            sys.setprofile(self.note)
            try:
                return function(*args, **kwargs)
            finally:
                sys.setprofile(None)

        return patch.object(owner, name, call)

    def files(self) -> set[str]:
        return {code.co_filename for code in self.found}


def entered_by_training(project: Path) -> tuple[Trace, Trace]:
    """What the third batch of a fold's training enters, and what its held-out rows do, from the table to their cells in
    `oof.parquet`."""
    batch, row = Trace(project), Trace(project, callers=True)
    with imported(project), ExitStack() as patches:
        from competition import competition
        from pipeline.experiments import load_experiment
        from pipeline.project import Project
        from pipeline.training import finish, fold, setup
        from pipeline.training.trainer import Trainer
        from pipeline.training.validation import Validation

        ends, done = Trainer.batch_end, 0

        def batch_end(self: Trainer) -> None:
            nonlocal done
            ends(self)
            done += 1
            sys.setprofile(batch.note if done == 2 else None)

        patches.enter_context(patch.object(Trainer, "batch_end", batch_end))
        for owner, name in (
            *((type(competition), "train_rows"), (setup, "with_earlier"), (setup, "load_folds")),
            *((setup.Setup, "fold_rows"), (Validation, "add")),
            *((finish, "predict_rows"), (finish, "write_predictions")),
        ):
            patches.enter_context(row.during(owner, name))
        patches.enter_context(row.during(Trainer, "run_step", stage="valid"))
        paths = Project.at(project)
        prepared = setup.prepare(paths, competition, "house", load_experiment(paths, "demo", [*SETTINGS, *ORDINARY]))
        patches.enter_context(row.during(type(prepared.task), "stored"))
        fold.train(prepared, "0", restart=False)
    return batch, row


def entered_by_prediction(project: Path) -> Trace:
    """What is entered between the logits of the test rows and the cells of the submission, given the run that
    `entered_by_training` has trained."""
    trace = Trace(project)
    with imported(project), ExitStack() as patches:
        from pipeline.inference import command as prediction
        from pipeline.inference import predict
        from pipeline.inference.snapshot import run_competition
        from pipeline.project import Project
        from pipeline.submission import command

        def outputs(*args: Any) -> Iterator[Any]:
            made = [list(passes) for passes in model_outputs(*args)]
            sys.setprofile(trace.note)
            yield from made

        model_outputs = predict.model_outputs
        patches.enter_context(patch.object(predict, "model_outputs", outputs))
        patches.enter_context(trace.during(prediction, "write_predictions"))
        patches.enter_context(trace.during(importlib.import_module("competition.submission"), "submission"))
        patches.enter_context(trace.during(command, "fill"))
        patches.enter_context(trace.during(command, "write_submission"))
        paths = Project.at(project)
        run = paths.require_run("house")
        with run_competition(run) as competition:
            prediction.predict_run(paths, competition, run, paths.data, "0", {"workers": 0, "device": "cpu"})
        command.submit(paths, "house")
    return trace


def methods(interface: type) -> int:
    """The public methods that an interface asks for or offers to replace, inherited ones included."""
    return sum(
        callable(member) or isinstance(member, property)
        for name, member in inspect.getmembers(interface)
        if not name.startswith("_")
    )


def measure(project: Path) -> dict[str, int]:
    """Each figure of `BUDGETS` for a project."""
    files = [path for ring in ("pipeline", "toolkit") for path in (project / "src" / ring).rglob("*.py")]
    with imported(project):
        from pipeline.heads.base import HeadKind
        from pipeline.tasks import Task

        interfaces = methods(HeadKind), methods(Task)
    values = [sum(len(path.read_text().splitlines()) for path in files), *interfaces]
    batch, row = entered_by_training(project)
    for trace in (batch, entered_by_prediction(project)):
        values += [len(trace.found), len(trace.files())]
    values += [len(row.files()), sum(len(Path(file).read_text().splitlines()) for file in row.files())]
    return dict(zip(BUDGETS, values, strict=True))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(render(Path(folder) / "project"))
    table = Table("what", "here", "budget", "others", title="the house")
    for name, value in found.items():
        table.add_row(name, f"{value:,}", f"{BUDGETS[name]:,}", OTHERS.get(name, ""))
    Console().print(table)


if __name__ == "__main__":
    main()
