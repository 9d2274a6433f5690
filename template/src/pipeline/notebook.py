"""An experiment in a notebook: its dataset, its model and one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.competition import Competition
from pipeline.data.folds import split
from pipeline.experiments import load_experiment
from pipeline.project import Project
from pipeline.training.setup import Setup, prepare
from pipeline.types import Batch, PreparedModel, SampleDataset


@dataclass(frozen=True)
class OpenExperiment:
    """What `open_experiment` found; `model(batch)` is a dict of outputs, `dataset[0]` a sample."""

    setup: Setup
    dataset: SampleDataset
    model: PreparedModel
    batch: Batch


def open_experiment(
    competition: Competition,
    name: str,
    overrides: Sequence[str] = (),
    *,
    fold: str = "0",
    stage: str = "train",
    pretrained: bool = False,
    data: str | Path | None = None,
) -> OpenExperiment:
    """Build what `experiments/<name>.yaml` says, on the CPU; nothing is written. `overrides` are those of the command
    line, `["image.size=64"]`, `stage` is `train` or `valid`, and weights are random unless they are `pretrained`."""
    project = Project.at(Path(__file__).resolve().parents[2], data)
    setup = prepare(project, competition, name, load_experiment(project, name, overrides))
    rows = split(setup.folds.rows, fold)[stage != "train"]
    dataset = setup.task.dataset(rows, project.data, setup.config, setup.names, stage)
    model = setup.task.model(setup.config, setup.names, pretrained)
    samples = [dataset[(0, position)] for position in range(min(len(dataset), setup.config.training.batch_size))]
    return OpenExperiment(setup, dataset, model, setup.task.collate(samples))
