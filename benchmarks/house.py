"""How much of a rendered repository a reader meets: lines in all, and what a batch or a prediction walks through.

Counted in the default render: lines of its pipeline and toolkit, methods of the interfaces of a head and of a task, and
the functions of its `src` that are entered between the ends of two ordinary batches, and from the logits of the test
rows to the cells of the submission, with the files they stand in.
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


def entered(project: Path) -> set[CodeType]:
    """The functions of `src` entered by the third batch of a fold's training."""
    found: set[CodeType] = set()
    source = str(project / "src")

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(source):
            found.add(frame.f_code)

    with imported(project):
        from competition import competition
        from pipeline.experiments import load_experiment
        from pipeline.project import Project
        from pipeline.training import fold, setup
        from pipeline.training.trainer import Trainer

        ends, seen = Trainer.batch_end, 0

        def batch_end(self: Trainer) -> None:
            nonlocal seen
            ends(self)
            seen += 1
            sys.setprofile(note if seen == 2 else None)

        paths = Project.at(project)
        config = load_experiment(paths, "demo", [*SETTINGS, *ORDINARY])
        Trainer.batch_end = batch_end  # type: ignore[method-assign]
        try:
            fold.train(setup.prepare(paths, competition, "house", config), "0", restart=False)
        finally:
            Trainer.batch_end = ends  # type: ignore[method-assign]
            sys.setprofile(None)
    return {code for code in found if not code.co_name.startswith("<")}


def entered_by_prediction(project: Path) -> set[CodeType]:
    """The functions of `src` entered between the logits of the test rows and the cells of the submission, given the
    run that `entered` has trained."""
    found: set[CodeType] = set()
    source = str(project / "src")

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(source):
            found.add(frame.f_code)

    with imported(project), ExitStack() as patches:
        from pipeline.inference import predict
        from pipeline.inference.snapshot import run_competition
        from pipeline.project import Project
        from pipeline.submission import command

        def trace(owner: Any, name: str) -> None:
            """Trace until a function ends, whatever calls it."""
            function = getattr(owner, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                sys.setprofile(note)
                try:
                    return function(*args, **kwargs)
                finally:
                    sys.setprofile(None)

            patches.enter_context(patch.object(owner, name, call))

        def outputs(*args: Any) -> Iterator[Any]:
            made = list(model_outputs(*args))
            sys.setprofile(note)
            yield from made

        model_outputs = predict.model_outputs
        patches.enter_context(patch.object(predict, "model_outputs", outputs))
        trace(predict, "write_predictions")
        trace(importlib.import_module("competition.submission"), "submission")
        trace(command, "fill")
        trace(command, "write_submission")
        paths = Project.at(project)
        run = paths.require_run("house")
        with run_competition(run) as competition:
            predict.predict_run(paths, competition, run, paths.data, "0", {"workers": 0, "device": "cpu"})
        command.submit(paths, "house")
    return {code for code in found if not code.co_name.startswith("<")}


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
    for codes in (entered(project), entered_by_prediction(project)):
        values += [len(codes), len({code.co_filename for code in codes})]
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
