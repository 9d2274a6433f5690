"""Find a learning rate: train with one that grows from step to step, and look where the loss falls and explodes.

examples:
  scripts/find_lr.py baseline                             the first fold's training rows
  scripts/find_lr.py baseline model.encoder=convnext_tiny
  scripts/find_lr.py baseline --min 1e-5 --max 0.1 --steps 200
"""

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("experiment", help="name of a file in experiments/")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the file")
    options.add_argument("--fold", default="0", help="whose training rows: a fold's number (default: 0), or full")
    options.add_argument("--min", type=float, default=1e-7, metavar="RATE", help="the first rate (default: 1e-7)")
    options.add_argument("--max", type=float, default=1.0, metavar="RATE", help="the last rate (default: 1)")
    options.add_argument("--steps", type=int, default=100, help="optimiser steps from one to the other (default: 100)")
    arguments = options.parse_intermixed_args()

    from pipeline.experiments import load_experiment
    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    config = load_experiment(project, arguments.experiment, arguments.overrides)
    from competition import competition

    project.require_data()
    from pipeline.training.lr_finder import find_learning_rate
    from pipeline.training.setup import prepare

    setup = prepare(project, competition, arguments.experiment, config)
    find_learning_rate(setup, arguments.fold, arguments.min, arguments.max, arguments.steps, arguments.overrides)


if __name__ == "__main__":
    run_script(main)
