"""Rendered projects to measure in, made when the first row asks for them."""

import contextlib
import dataclasses
import io
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from projects import copy_template, imported, render, run_script

ENGINES = ("lightning", "ignite", "fastai", "catalyst")  # the default of the template first
TASK = "classification"  # the default one
TRACKERS = ("wandb", "tensorboard")  # every one there is to choose from


class Workplace:
    """One temporary folder with the template, and a project with the demo competition in it: the default answers, but
    for the engine, with all trackers."""

    def __init__(self, folder: Path, engine: str = ENGINES[0], task: str = TASK) -> None:
        self.folder, self.engine, self.task = folder, engine, task

    @cached_property
    def template(self) -> Path:
        """What copier reads: the working tree as it is."""
        return copy_template(self.folder / "template")

    @cached_property
    def project(self) -> Path:
        """A rendered project with demo data and folds."""
        import torch

        threads = torch.get_num_threads()
        project = self._render()
        for script in ("make_demo_data.py", "make_folds.py"):
            result = run_script(project, script)
            if result.status:
                raise RuntimeError(f"{script} of the rendered project failed: {result.stderr}")
        torch.set_num_threads(threads)  # `run_script` takes two
        return project

    def with_engine(self, engine: str) -> "Workplace":
        """A workplace whose project is this one's with another engine, and the same data and folds."""
        if engine == self.engine:
            return self
        place = Workplace(self.folder, engine)
        place.template = self.template
        place.project = place._render()
        for name in ("data", "folds"):
            shutil.copytree(self.project / name, place.project / name, dirs_exist_ok=True)
        return place

    def with_task(self, task: str) -> "Workplace":
        """A workplace whose project is the demo of another task."""
        if task == self.task:
            return self
        place = Workplace(self.folder, self.engine, task)
        place.template = self.template
        return place

    @contextlib.contextmanager
    def pipeline(self) -> Iterator[None]:
        """Inside, `import pipeline` and `import competition` find the rendered project's."""
        with imported(self.project):
            yield

    def setup(self, experiment: str, overrides: Sequence[str], trackers: Sequence[str] = ()) -> Any:
        """`pipeline.training.setup.Setup` as `train.py` makes it; only inside `pipeline()`."""
        from competition import competition
        from pipeline.experiments import load_experiment
        from pipeline.project import Project
        from pipeline.training.setup import prepare

        project = Project.at(self.project, self.project / "data" / "raw")
        config = load_experiment(project, experiment, overrides)
        settings = competition.settings.model_copy(update={"trackers": tuple(trackers)})
        return prepare(project, dataclasses.replace(competition, settings=settings), experiment, config)

    def _render(self) -> Path:
        extra = ["segmentation"] if self.task == TASK else []
        answers = {"framework": self.engine, "trackers": list(TRACKERS), "task": self.task, "extra_tasks": extra}
        return render(self.template, self.folder / f"project-{self.engine}-{self.task}", answers)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What a run prints is not the benchmark's; without a terminal it draws no bar either."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Work per core. Threads that wait for each other at every operation would measure the neighbours instead."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
