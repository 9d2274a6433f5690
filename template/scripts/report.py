"""Compare experiments: scores fold by fold, out of fold, and where submissions and pictures are.

Each is also held against the first one on the rows both have, whatever their folds: the difference, where it lies in
95 % of resamples of these rows (or of whole groups), and in how many of them the experiment is better.

examples:
  scripts/report.py baseline            one experiment
  scripts/report.py baseline exp012     two of them, side by side
"""

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("experiments", nargs="+", metavar="experiment", help="names of experiments that are evaluated")
    arguments = options.parse_args()

    from pipeline.project import Project
    from pipeline.report import compare

    compare(Project.at(ROOT, arguments.data), arguments.experiments)


if __name__ == "__main__":
    run_script(main)
