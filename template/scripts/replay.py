"""Run a training step that went wrong again, alone on the CPU, from the dump that the run has left.

Says which loss, output or gradient was not finite, which operation of which module made the first such value, from
what, and in which samples.

examples:
  scripts/replay.py runs/baseline/fold_0/non_finite/step_000123.pt
"""

from pathlib import Path

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dump", type=Path, metavar="DUMP", help="runs/NAME/fold_K/non_finite/step_NUMBER.pt")
    arguments = options.parse_args()

    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)

    from pipeline.training.replay import replay_dump

    replay_dump(project, arguments.dump)


if __name__ == "__main__":
    run_script(main)
