"""Divide the training rows into folds, once, and report what leaks between them: folds/NAME.csv.

examples:
  scripts/make_folds.py                               5 folds; stratified, groups stay together where there are any
  scripts/make_folds.py --n-folds 10 --name ten       other folds beside them, for experiments that say `folds: ten`
  scripts/make_folds.py --seed 1 --force              replace folds/folds.csv
  scripts/make_folds.py --n-folds 1                   a given validation split: rows of another source train

Folds that are there and still fit are left alone; those of the demo are replaced when real data are there.
"""

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    splitters = ("auto", "plain", "stratified", "group", "stratified_group")
    options.add_argument("--n-folds", type=int, metavar="N", help="how many (default: 5)")
    options.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same folds (default: 0)")
    options.add_argument("--name", default="folds", help="write folds/NAME.csv (default: folds)")
    options.add_argument("--splitter", default="auto", choices=splitters, help="how to divide (default: auto)")
    options.add_argument("--force", action="store_true", help="replace folds that are there")
    options.add_argument("--no-leak-report", action="store_true", help="do not look at the images")
    options.add_argument("--experiment", metavar="NAME", help="read the images as this experiment does")
    arguments = options.parse_args()

    from competition import competition
    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    project.require_data()
    from pipeline.data.command import create_folds

    create_folds(
        project,
        competition,
        arguments.name,
        arguments.n_folds,
        arguments.seed,
        arguments.splitter,
        arguments.force,
        not arguments.no_leak_report,
        arguments.experiment,
    )


if __name__ == "__main__":
    run_script(main)
