"""An experiment, read and checked before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline import training
from pipeline.callbacks import NAMES as CALLBACK_NAMES
from pipeline.competition import Competition
from pipeline.config import Experiment, resolve_names
from pipeline.data import NAMES as DATA_NAMES
from pipeline.data.folds import FoldTable, fold_path, load_folds, read_classes
from pipeline.data.labels import labels_of
from pipeline.inference.predict import HELD_OUT, require_same_folds, with_earlier
from pipeline.project import Project
from pipeline.registry import Names
from pipeline.tasks import Task, task_for
from pipeline.training.interventions import by_epoch, written_out


@dataclass(frozen=True)
class Setup:
    """An experiment with everything its folds share; `stages` is the experiment as it is in each epoch."""

    project: Project
    competition: Competition
    name: str
    config: Experiment
    stages: Sequence[Experiment]
    names: Names
    task: Task
    folds: FoldTable

    def with_seed(self, seed: int) -> "Setup":
        """The same experiment with another seed."""
        change = {"seed": seed}
        stages = {id(stage): stage.model_copy(update=change) for stage in (self.config, *self.stages)}
        return replace(self, config=stages[id(self.config)], stages=[stages[id(stage)] for stage in self.stages])


def prepare(project: Project, competition: Competition, name: str, config: Experiment) -> Setup:
    """Read tables and folds and check every name in the config; nothing is written."""
    competition, data = competition.stage(config.stage), project.require_data()
    rows = with_earlier(project, config.inputs, competition.train_rows(data), HELD_OUT)
    folds = load_folds(project, config.folds, rows, competition.settings)
    require_same_folds(project, config.inputs, folds.hash)
    labels_of(competition).check_folds(folds.rows, project.shown(fold_path(project, config.folds)))
    task, names = checked_task(project, competition, config)
    for metric in competition.metrics():
        metric.check_heads(task.heads)
    if not config.losses:
        config = config.model_copy(update={"losses": task.default_losses()})
    config = written_out(resolve_names(config, names), names)
    return Setup(project, competition, name, config, by_epoch(config, names), names, task, folds)


def checked_task(project: Project, competition: Competition, config: Experiment) -> tuple[Task, Names]:
    """The task of a competition, or of one of its stages, and all names; the task can do what the config says.

    Raises:
        UserError: the task refuses the config's settings.
    """
    task = task_for(competition, competition.heads(read_classes(project)))
    names = Names(DATA_NAMES, training.NAMES, CALLBACK_NAMES, task.NAMES, competition.all_names())
    task.check_settings(config, names)
    return task, names
