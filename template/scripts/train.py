"""Train an experiment over its folds. The same command continues what was cut off.

examples:
  scripts/train.py demo                          every fold of experiments/demo.yaml
  scripts/train.py baseline --fold 0             one fold; --fold 0,2 trains two of them
  scripts/train.py baseline --fold full          everything, without validation
  scripts/train.py baseline optimizer.lr=3e-4 --as exp012    write the variation down and train it
  scripts/train.py baseline machine.devices=2    two GPUs share each batch; the numbers stay the same
  scripts/train.py baseline --print-config       every setting with its value
"""

import argparse
import sys
from contextlib import ExitStack

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("experiment", help="name of a file in experiments/")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the file")
    options.add_argument("--fold", default="all", help="a fold's number, several (0,2), all (default), or full")
    options.add_argument("--as", dest="name", metavar="NAME", help="write experiments/NAME.yaml and train that")
    options.add_argument("--restart", action="store_true", help="set the old run aside and begin anew")
    options.add_argument("--print-config", action="store_true", help="show every setting and leave")
    arguments = options.parse_intermixed_args()

    with ExitStack() as stack:
        run(arguments, stack)


def run(arguments: argparse.Namespace, stack: ExitStack) -> None:
    from pipeline.experiments import load_experiment, removed_without_a_run, write_variation
    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    name, overrides = arguments.experiment, arguments.overrides
    if arguments.name:
        if write_variation(project, name, arguments.name, overrides):
            stack.enter_context(removed_without_a_run(project, arguments.name))
        name, overrides = arguments.name, []
    config = load_experiment(project, name, overrides)
    from competition import competition

    if arguments.print_config:
        from pipeline.training.setup import print_config

        print_config(competition, config)
        return
    project.require_data()
    from toolkit.launch import launch, must_launch

    if must_launch(config.machine.devices):
        sys.exit(launch(config.machine.devices))
    from pipeline.training.fold import train
    from pipeline.training.setup import prepare

    train(prepare(project, competition, name, config), arguments.fold, arguments.restart)


if __name__ == "__main__":
    run_script(main)
