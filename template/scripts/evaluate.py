"""Score an experiment on its out-of-fold rows: every fold, their mean and spread, and all rows at once.

The line `constant` is what a prediction scores that never looked at an image. Where a metric needs decisions and heads
make them by a threshold, `tuned` is the mean with thresholds from the other folds; where that gains more than luck,
thresholds from all rows go into thresholds.json, and submissions decide by them. A bootstrap of the rows, or of whole
groups, says what the score is worth.

examples:
  scripts/evaluate.py demo               all folds that are trained: the CV score, oof.parquet, cv.json, pictures
  scripts/evaluate.py demo --fold 0      only what fold 0 held out, for screening
  scripts/evaluate.py demo --fold 0,2    two of them
  scripts/evaluate.py demo --tta         what flips and turns (or `tta` of the experiment) gain, and nothing is written
  scripts/evaluate.py demo --tta hflip,scale:1.2,crop:0.9    the same of these views
  scripts/evaluate.py demo --weights mean    other weights than those that each fold kept, before predict.py takes them
"""

from _project import ROOT, parser
from toolkit.errors import UserError, run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("experiment", help="name of an experiment that is trained")
    options.add_argument("--fold", help="score only these folds: 0, or 0,2 (default: all that are trained)")
    options.add_argument("--tta", nargs="?", const="", metavar="VIEWS", help="score views of the held-out images")
    options.add_argument("--weights", default="best", metavar="NAME", help="mean, swa, ema, raw or epoch of each fold")
    arguments = options.parse_args()

    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    folder = project.require_run(arguments.experiment)
    data = project.require_data()

    from pipeline.inference.command import score_views
    from pipeline.inference.ensemble import require_current
    from pipeline.inference.evaluation import evaluate_run
    from pipeline.inference.snapshot import run_competition

    joined = require_current(project, folder)
    if joined is not None and (arguments.tta is not None or arguments.weights != "best"):
        raise UserError(f"'{folder.name}' is an ensemble, without views or weights of its own; name one of its members")
    with run_competition(folder) as competition:
        if arguments.tta is None:
            evaluate_run(project, competition, folder, data, arguments.fold or joined, arguments.weights)
        else:
            views = [view for view in arguments.tta.split(",") if view]
            score_views(project, competition, folder, data, arguments.fold, views)


if __name__ == "__main__":
    run_script(main)
