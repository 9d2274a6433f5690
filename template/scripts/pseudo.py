"""Let an experiment label rows that have no label, for others to train on: data/pseudo/NAME.parquet.

examples:
  scripts/pseudo.py baseline                                 the test rows, each with its most probable label
  scripts/pseudo.py baseline --above 0.9 --name sure         only labels that are this probable
  scripts/pseudo.py baseline --soft                          probabilities in place of labels
  scripts/pseudo.py baseline --rows data/raw/extra.csv       rows of a csv with an id column

Every fold is labelled by its own model, and its rows train the same fold of a student alone, so that no score is
flattered: `pseudo: [NAME]` in the experiment of the student, whose folds must be the teacher's.
"""

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("teacher", help="name of an experiment that is trained")
    options.add_argument("--rows", default="test", metavar="FILE", help="a csv of rows (default: the test rows)")
    options.add_argument("--above", type=float, default=0.0, metavar="P", help="leave out labels less probable")
    options.add_argument("--soft", action="store_true", help="write probabilities as targets")
    options.add_argument("--name", help="what they are called (default: as the teacher)")
    options.add_argument("--weight", type=float, default=1.0, help="weight of each row in the loss (default: 1)")
    options.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    options.add_argument("--workers", type=int, help="loader processes (default: by the number of cores)")
    arguments = options.parse_args()
    if not 0 <= arguments.above <= 1 or not 0 <= arguments.weight < float("inf"):
        options.error("--above is a probability, from 0 to 1, and --weight a number from 0 on")

    from pipeline.experiments import NAME
    from pipeline.keys import SOURCE_COMPETITION
    from pipeline.project import Project

    project, name = Project.at(ROOT, arguments.data), arguments.name or arguments.teacher
    if not NAME.fullmatch(name) or name == SOURCE_COMPETITION:
        options.error(f"argument --name: '{name}' cannot name them; use letters, digits, '-' and '_'")
    folder, data = project.require_run(arguments.teacher), project.require_data()

    from pipeline.inference.predict import TrainedRun
    from pipeline.inference.pseudo_labels import unlabelled_rows, write_pseudo_labels
    from pipeline.inference.snapshot import run_competition

    machine = {"device": arguments.device, "workers": arguments.workers}
    with run_competition(folder) as competition:
        run = TrainedRun.open(folder, competition, machine)
        rows = unlabelled_rows(run.task.competition, arguments.rows, data)
        write_pseudo_labels(project, run, rows, name, arguments.above, arguments.soft, arguments.weight)


if __name__ == "__main__":
    run_script(main)
