"""Predict the test rows with the trained folds of one or more experiments; each image is decoded once for all folds and
views. What is cut off goes on with the same command.

examples:
  scripts/predict.py demo                      the mean of all folds that are trained: runs/demo/test.parquet
  scripts/predict.py exp012 exp013             two experiments, one after the other
  scripts/predict.py demo --fold 0             one fold only; --fold 0,2 averages two of them
  scripts/predict.py exp012 --tta hflip,scale:1.2    other views than those of the experiment (`tta`); "": none
  scripts/predict.py exp012 --devices 2        two GPUs share the rows

The test rows are those of today's competition.yaml and src/competition/tables.py, so the images of a second stage are
predicted without a new training. scripts/evaluate.py --tta says what views gain.
"""

import sys

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("experiments", nargs="+", metavar="experiment", help="names of experiments that are trained")
    options.add_argument("--fold", help="use only the models of these folds: 0, 0,2, or full")
    options.add_argument("--weights", default="best", metavar="NAME", help="mean, swa, ema, raw or epoch of each fold")
    options.add_argument("--tta", metavar="VIEWS", help="views beside the image itself: hflip,rot90,scale:0.8,crop:0.9")
    options.add_argument("--parts", action="store_true", help="also what each fold, seed and view predicts, by itself")
    options.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    options.add_argument("--devices", type=int, metavar="N", help="share the rows (default: as it was trained)")
    options.add_argument("--workers", type=int, help="loader processes (default: by the number of cores)")
    options.add_argument("--batch-size", type=int, metavar="N", help="rows at once (default: as in the experiment)")
    arguments = options.parse_args()
    for name in ("batch_size", "devices"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            options.error(f"argument --{name.replace('_', '-')}: {number} is given; 1 or more is expected")

    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    folders = [project.require_run(name) for name in arguments.experiments]
    data = project.require_data()

    from toolkit.files import read_yaml
    from toolkit.launch import launch, must_launch

    machines = (read_yaml(folder / "config.yaml").get("machine", {}) for folder in folders)
    devices = arguments.devices or max(machine.get("devices", 1) for machine in machines)
    if arguments.devices is None and devices > 1:
        import torch

        devices = min(devices, torch.cuda.device_count())
    if must_launch(devices):
        sys.exit(launch(devices))

    from pipeline.inference.command import predict_run
    from pipeline.inference.ensemble import predict_ensemble
    from pipeline.inference.ensemble_members import is_ensemble
    from pipeline.inference.snapshot import run_competition
    from toolkit.distributed import joined
    from toolkit.signals import LeaveOnSignal

    machine = {"device": arguments.device, "workers": arguments.workers}
    if arguments.batch_size is not None:
        machine["valid_batch_size"] = arguments.batch_size
    views = None if arguments.tta is None else [view for view in arguments.tta.split(",") if view]
    signals = LeaveOnSignal()
    with joined() as processes:
        signals.watch()
        for folder in folders:
            with run_competition(folder) as competition:
                if is_ensemble(folder):
                    if processes.rank == 0:
                        predict_ensemble(project, competition, folder, data, arguments.fold)
                    continue
                predict_run(
                    project,
                    competition,
                    folder,
                    data,
                    arguments.fold,
                    machine,
                    tta=views,
                    each=arguments.parts,
                    processes=processes,
                    signals=signals,
                    weights=arguments.weights,
                )


if __name__ == "__main__":
    run_script(main)
