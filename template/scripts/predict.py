"""Predict the test rows with the trained folds of one or more experiments; each image is decoded once for all folds.

examples:
  scripts/predict.py demo                      the mean of all folds that are trained: runs/demo/test.parquet
  scripts/predict.py exp012 exp013             two experiments, one after the other
  scripts/predict.py demo --fold 0             one fold only; --fold 0,2 averages two of them

The test rows are those of today's competition.yaml and src/competition/tables.py, so the images of a second stage are
predicted without a new training.
"""

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("experiments", nargs="+", metavar="experiment", help="names of experiments that are trained")
    options.add_argument("--fold", help="use only the models of these folds: 0, 0,2, or full")
    options.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    options.add_argument("--workers", type=int, help="loader processes (default: by the number of cores)")
    options.add_argument("--batch-size", type=int, metavar="N", help="rows at once (default: as in the experiment)")
    arguments = options.parse_args()
    if arguments.batch_size is not None and arguments.batch_size < 1:
        options.error(f"argument --batch-size: {arguments.batch_size} is given; 1 or more is expected")

    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    folders = [project.require_run(name) for name in arguments.experiments]
    data = project.require_data()

    from pipeline.inference.predict import predict_run
    from pipeline.inference.snapshot import run_competition

    machine = {"device": arguments.device, "workers": arguments.workers}
    if arguments.batch_size is not None:
        machine["valid_batch_size"] = arguments.batch_size
    for folder in folders:
        with run_competition(folder) as competition:
            predict_run(project, competition, folder, data, arguments.fold, machine)


if __name__ == "__main__":
    run_script(main)
