"""Find everything that is wrong with the data: tables, labels, images, sample submission, copies that leak.

examples:
  scripts/check_data.py                          the data in data/raw, and folds/folds.csv if it is there
  scripts/check_data.py --experiment exp001      read the images, and the folds, as this experiment does
  scripts/check_data.py --unpack                 Kaggle's zip archives in data/raw become folders first

Exit status 2 if training, predicting or submitting would fail on what was found.
"""

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--experiment", metavar="NAME", help="read images and folds as this experiment does")
    options.add_argument("--unpack", action="store_true", help="unpack the zip archives in the data folder first")
    arguments = options.parse_args()

    from competition import competition
    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    project.require_data()
    from pipeline.data.command import run_checks

    run_checks(project, competition, arguments.experiment, arguments.unpack)


if __name__ == "__main__":
    run_script(main)
