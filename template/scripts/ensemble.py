"""Join experiments: an experiment of its own, which is evaluated, predicted and submitted like any other, and may be a
member of further ones.

Each method is scored out of fold on what it was not fitted to; `best` takes the one that scores best. `mean`,
`geometric` and `rank` fit nothing to the labels; `hill` climbs with replacement, `nnls` is a weighted mean by least
squares, `stack` a logistic or ridge model, and `lightgbm` trees that read the side columns as well.

examples:
  scripts/ensemble.py both baseline exp012                by the method that scores best: runs/both
  scripts/ensemble.py both baseline exp012 --restart      another choice of members or method under the same name
  scripts/ensemble.py cv10 exp012 exp012b --method mean   one experiment on two fold files: nothing is fitted
  scripts/predict.py baseline exp012 both                 the members predict, and are joined
"""

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("name", metavar="NAME", help="what the ensemble is called")
    options.add_argument("members", nargs="+", metavar="experiment", help="names of experiments that are trained")
    methods = ("best", "mean", "geometric", "rank", "hill", "nnls", "stack", "lightgbm")
    options.add_argument("--method", choices=methods, default="best", help="how they are joined (default: best)")
    options.add_argument("--restart", action="store_true", help="replace an ensemble of this name by another one")
    arguments = options.parse_args()

    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)

    from pipeline.inference.ensemble import make_ensemble

    make_ensemble(project, arguments.name, arguments.members, arguments.method, arguments.restart)


if __name__ == "__main__":
    run_script(main)
