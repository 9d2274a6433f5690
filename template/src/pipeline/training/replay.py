"""A training step that went wrong, run again alone on the CPU, from the dump that the run has left."""

import tempfile
from contextlib import closing
from pathlib import Path

import torch

from pipeline.callbacks.non_finite.replay import Finding, load_dump, replay
from pipeline.config import parse_experiment
from pipeline.inference.device import choose_precision
from pipeline.inference.snapshot import run_competition
from pipeline.project import Project
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
    config = parse_experiment(dump.config, str(path))
    lines = [f"then: {dump.found.splitlines()[0]}"]
    with run_competition(project.require_run(dump.experiment)) as competition, tempfile.TemporaryDirectory() as folder:
        setup = prepare(project, competition, dump.experiment, config).with_seed(config.seed)
        with closing(Trainer(setup, dump.fold, Path(folder), cpu)) as trainer:
            trainer.model.load_state_dict(dump.weights)
            trainer.stand_at(Progress(dump.epoch, dump.batch_number, dump.step))
            trainer.precision = choose_precision("bf16" if dump.precision == "bf16" else "fp32", cpu)
            trainer.processes = Processes(rank=dump.rank)
            trainer.model.train()
            rate = max(float(group["lr"]) for group in trainer.optimizer.param_groups)
            finding = replay(trainer, dump.batch, dump.batch_number, rate)
    lines.append(f"now:  {finding.words}")
    if not finding.is_shown and dump.precision == "fp16":
        lines.append("      It was found in fp16 and is finite in fp32, so fp16 overflowed: train in bf16 or fp32")
    elif not finding.is_shown and dump.device != "cpu":
        lines.append(f"      It was found on {dump.device}, where dropout draws other random numbers than on a CPU")
    if finding.origin is not None:
        for name, ranges in (("took", finding.origin.inputs), ("gave", finding.origin.outputs)):
            lines += [f"  {name} {one}" for one in ranges]
        if finding.origin.traceback:
            lines.append(f"the lines that led there:\n{finding.origin.traceback}")
    for line in lines:
        console().print(line, soft_wrap=True, markup=False)
    return finding
