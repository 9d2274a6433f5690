"""A training step that went wrong, run again alone on the CPU, from the dump that the run has left."""

import tempfile
from pathlib import Path

import torch

from pipeline.callbacks.non_finite.replay import Finding, load_dump, replay
from pipeline.config import parse_experiment
from pipeline.inference.device import choose_precision
from pipeline.inference.snapshot import run_competition
from pipeline.project import Project
from pipeline.training.optimizer import set_learning_rate
from pipeline.training.setup import prepare
from pipeline.training.trainer import Trainer
from pipeline.types import Progress
from toolkit.distributed import Processes
from toolkit.terminal import console


def replay_dump(project: Project, path: Path) -> Finding:
    """Run the step of a dump again with the code of its run, and print what was said then and what is found now.

    Raises:
        UserError: there is no such dump, or the run that left it is gone.
    """
    dump, cpu = load_dump(path), torch.device("cpu")
    out = console()
    out.print(f"then: {dump.found.splitlines()[0]}", soft_wrap=True, markup=False)
    config = parse_experiment(dump.config, str(path))
    with run_competition(project.require_run(dump.experiment)) as competition, tempfile.TemporaryDirectory() as folder:
        setup = prepare(project, competition, dump.experiment, config).with_seed(config.seed)
        trainer = Trainer(setup, dump.fold, Path(folder), cpu, tracked=False)
        trainer.model.load_state_dict(dump.weights)
        trainer.progress = Progress(dump.epoch, dump.batch_number, dump.step)
        trainer.precision = choose_precision("bf16" if dump.precision == "bf16" else "fp32", cpu)
        trainer.processes = Processes(rank=dump.rank)
        trainer.model.train()
        set_learning_rate(trainer.optimizer, trainer.factor(dump.step))
        with trainer:
            finding = replay(trainer, dump.batch, dump.batch_number)
    out.print(f"now:  {finding.words}", soft_wrap=True, markup=False)
    if finding.origin is not None:
        for name, ranges in (("took", finding.origin.inputs), ("gave", finding.origin.outputs)):
            for one in ranges:
                out.print(f"  {name} {one}", soft_wrap=True, markup=False)
        if finding.origin.traceback:
            out.print(f"the lines that led there:\n{finding.origin.traceback}", soft_wrap=True, markup=False)
    return finding
