"""Every kind of competition: what a training leaves in W&B, in TensorBoard and in local files, under the same names."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from projects import Renders, run_script
from trackers import wandb_history, wandb_records
from training import SMALL, SMALL_MASKS, expect, killed

WATCH = "watch: {figure_epochs: 1, gradient_steps: 5}\n"
STAGES = ("train", "valid")
# What the essay asks to see of any task; `gradients/` and the like stand for one tag per block of the network.
SCALARS = {"epoch", "batch/loss", "train/loss", "valid/loss", "time/data_share", "time/images_per_second"}
SCALARS |= {f"{name}/group_0" for name in ("lr", "momentum", "weight_decay")} | {"gradients/", "updates/"}
FIGURES = {"gradients", "learning_curves", *(f"grad_cam/{which}" for which in ("fixed", "random", "worst"))}
FIGURES |= {
    f"{which}_{what}/{stage}" for which in ("best", "worst") for what in ("batch", "samples") for stage in STAGES
}
OF_CLASSES = ("curves", "probabilities", "classes", "calibration")
OF_TASK = {  # pictures, metrics, and what trackers show by their own means: histograms, curves, points, masks
    "classification": (
        {"samples", *(f"{name}/label" for name in ("confusion_matrix", *OF_CLASSES))},
        {"accuracy", "log_loss"},
        {"predictions/label:0", "pr/label:9"},
    ),
    "multilabel": (
        {"samples", "labels/labels", *(f"{name}/labels" for name in OF_CLASSES)},
        {"roc_auc", "f1_macro"},
        {"predictions/labels:even", "pr/labels:even"},
    ),
    "regression": ({"samples", "scatter/ink", "errors/ink"}, {"rmse", "mae", "r2"}, {"predictions/ink"}),
    "multitask": (
        {
            "scatter/ink",
            *(f"{name}/{head}" for name in ("confusion_matrix", *OF_CLASSES) for head in ("digit", "loop")),
        },
        {"accuracy", "balanced_accuracy"},
        {"predictions/ink", "predictions/digit:0", "pr/loop:yes"},
    ),
    "metric_learning": (
        {"samples", "neighbours/identity", "scores/identity", "embedding/identity"},
        {"map_at_5", "recall_at_1"},
        {"embedding/identity"},
    ),
    "segmentation": (
        {"samples", "mask_iou", "mask_size", "mask_classes", "mask_probabilities"},
        {"dice", "iou"},
        {"worst_samples/valid_masks/0"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", OF_TASK)
def test_the_full_list_in_every_tracker(task: str, renders: Renders, tmp_path: Path) -> None:
    folder = trained(renders, tmp_path / "project", task)
    figures, metrics, shown = OF_TASK[task]
    names = {str(path.relative_to(folder / "figures").with_suffix("")) for path in (folder / "figures").rglob("*.png")}
    scalars = {tag for name in ("metrics.csv", "gradients.csv") for tag in pd.read_csv(folder / name)} - {"step"}
    assert FIGURES | figures <= names
    assert {wanted for wanted in SCALARS if not any(tag.startswith(wanted) for tag in scalars)} == set()
    assert {f"valid/{metric}" for metric in metrics} <= scalars
    for name in names:
        with Image.open(folder / f"figures/{name}.png") as image:
            assert len(image.resize((64, 64)).getcolors(4096)) > 4, f"{name} shows nothing"

    events = EventAccumulator(str(folder / "tensorboard"))
    tags = events.Reload().Tags()
    assert set(tags["images"]) == names
    # The final values beside the hyper-parameters have the names of metrics.
    assert scalars <= set(tags["scalars"]) and metrics | {"best_epoch"} <= set(tags["scalars"]) - scalars

    logged = {key for row in wandb_history(wandb_records(folder)).values() for key in row}
    assert scalars <= logged
    assert {f"{name}:_type" for name in names} <= logged

    tables = {f"worst_samples/{stage}" for stage in STAGES}
    written = {tag.removesuffix("/text_summary") for tag in tags["tensors"]} | set(tags["histograms"])
    projected = folder / "tensorboard/projector_config.pbtxt"
    written |= (
        {"embedding/identity"} if projected.is_file() and "embedding/identity" in projected.read_text() else set()
    )
    is_drawn_by_it = {name for name in shown if "_masks/" not in name}  # TensorBoard has no masks to switch on and off
    assert tables | is_drawn_by_it <= written
    assert any(tag.startswith("weights/") for tag in written) and any(tag.startswith("gradients/") for tag in written)
    assert {name for name in tables | shown if not any(key.startswith(name) for key in logged)} == set()
    worst = pd.read_csv(folder / "tables/worst_samples/valid.csv")
    assert {"id", "loss", "truth", "prediction"} <= set(worst) and worst["loss"].is_monotonic_decreasing


def trained(renders: Renders, project: Path, task: str) -> Path:
    """The folder of a fold that everything watched, in a process of its own: W&B reads its environment once."""
    renders.copy(project, {"task": task, "trackers": ["wandb", "tensorboard"]})
    small = SMALL_MASKS if task == "segmentation" else SMALL[: SMALL.index("watch:")]
    (project / "experiments/small.yaml").write_text(small.replace("epochs: 2", "epochs: 1, max_rows: 128") + WATCH)
    for script in ("make_demo_data.py", "make_folds.py"):
        expect(run_script(project, script))
    killed(project, 0, "small")
    return project / "runs/small/fold_0"
