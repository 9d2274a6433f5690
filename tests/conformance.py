"""One experiment for every engine, the runs of it, and what they left behind in words that can be compared."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engines import engine_project
from projects import Renders, run_script
from recorder import CALLBACKS, CLASSES
from test_engine_kills import EVERYTHING
from training import add_callbacks, expect

EPOCHS, BATCHES, ACCUMULATE, CLIP, ROWS, BATCH_SIZE = 2, 7, 3, 0.7, 112, 16
CONFORM = f"""extends: small
image: {{size: 24}}
model: {{drop_rate: 0.2}}
training:
  epochs: {EPOCHS}
  batch_size: {BATCH_SIZE}
  max_rows: {ROWS}
  accumulate: {ACCUMULATE}
  clip_grad: {CLIP}
  batch_transforms: [{{name: mixup, params: {{mixup_alpha: 0.4, cutmix_alpha: 1.0, prob: 0.8}}}}]
optimizer: {{layer_decay: 0.8}}
schedule: {{warmup_epochs: 0.7}}
averaging: {{ema_decay: 0.9}}
tracking: {{every_steps: 1}}
callbacks: [Record]
"""
INTERRUPT = "Record, {name: Interrupt, params: {epoch: 1, batch: 1}}"
SKIP = "callbacks=[Record, {name: SkipFirst, params: {steps: 3}}]"
ONE_BATCH = ("training.max_rows=16", "training.batch_size=64")


class Runs:
    """A project for each engine, and its runs, each trained once."""

    def __init__(self, renders: Renders, folder: Path) -> None:
        self.renders, self.folder = renders, folder
        self.said: dict[tuple[str, str], tuple[str, str]] = {}

    def project(self, engine: str) -> Path:
        target = self.folder / engine
        if not target.exists():
            draft = engine_project(self.renders, self.folder / f"draft-{engine}", engine)
            add_callbacks(draft, CALLBACKS, **CLASSES)
            (draft / "experiments/conform.yaml").write_text(CONFORM)
            for name, callbacks in (("whole", "Record"), ("everything", INTERRUPT)):
                text = EVERYTHING.replace("training:", f"training:\n  max_rows: {ROWS}\n  batch_size: {BATCH_SIZE}")
                (draft / f"experiments/{name}.yaml").write_text(text.replace("[Remember]", f"[{callbacks}]"))
            draft.rename(target)
        return target

    def run(self, engine: str, name: str, *settings: str, fold: str = "0", status: int = 0) -> Path:
        """The folder of a run of `conform` with other settings, trained unless it is there."""
        project = self.project(engine)
        if (engine, name) not in self.said:
            known = (project / f"experiments/{name}.yaml").exists()
            arguments = [name] if known else ["conform", *settings, "--as", name]
            result = expect(run_script(project, "train.py", *arguments, "--fold", fold), status)
            self.said[engine, name] = (result.stdout, result.stderr)
        return project / "runs" / name


def events(run: Path, fold: str = "0") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"fold_{fold}/events.jsonl").read_text().splitlines()]


def order(lines: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(line[key] for key in ("event", "stage", "epoch", "batch", "step")) for line in lines]


def promised(epochs: int, batches: int, accumulate: int, held_out: int) -> Iterator[tuple[Any, ...]]:
    """What `pipeline.types.Run` promises, in the words of the recorder."""
    step = 0
    yield "run_start", "", 0, 0, 0
    for epoch in range(epochs):
        yield "epoch_start", "train", epoch, 0, step
        for batch in range(batches):
            yield "batch_start", "train", epoch, batch, step
            yield "batch_end", "train", epoch, batch, step
            if (batch + 1) % accumulate == 0 or batch + 1 == batches:
                yield "gradients_ready", "", epoch, batch, step
                yield "optimizer_step", "", epoch, batch, step
                step += 1
        if held_out:
            yield "epoch_start", "valid", epoch, batches, step
        for _ in range(held_out):
            yield "batch_start", "valid", epoch, batches, step
            yield "batch_end", "valid", epoch, batches, step
        for stage in ("train", "valid") if held_out else ("train",):
            yield "epoch_end", stage, epoch + 1, 0, step
    yield "run_end", "", epochs, 0, step


def values(lines: list[dict[str, Any]], event: str, key: str, stage: str = "") -> list[Any]:
    return [line[key] for line in lines if line["event"] == event and stage in ("", line["stage"])]


def assert_same_numbers(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Losses, learning rates, gradient norms and worst samples, whatever the other events are."""
    for stage in ("train", "valid"):
        assert values(found, "batch_start", "ids", stage) == values(expected, "batch_start", "ids", stage)
        losses = values(expected, "batch_end", "loss", stage)
        assert values(found, "batch_end", "loss", stage) == pytest.approx(losses, rel=0, abs=1e-5)
        assert values(found, "epoch_end", "worst", stage) == values(expected, "epoch_end", "worst", stage)
    assert values(found, "batch_end", "rates") == values(expected, "batch_end", "rates")
    for event in ("gradients_ready", "optimizer_step"):
        assert values(found, event, "norm") == pytest.approx(values(expected, event, "norm"), rel=1e-4)


def assert_same_outcome(found: Path, expected: Path, fold: str = "0") -> None:
    """Weights, and what they predict for the held-out rows."""
    first, second = (load_file(run / f"fold_{fold}/best.safetensors") for run in (found, expected))
    assert first.keys() == second.keys()
    for name, value in second.items():
        torch.testing.assert_close(
            first[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    if fold != "full":
        tables = [pd.read_parquet(run / f"fold_{fold}/oof.parquet") for run in (found, expected)]
        pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=0, atol=1e-5)


def logged(run: Path) -> pd.DataFrame:
    metrics = pd.read_csv(run / "fold_0/metrics.csv")
    return metrics[[column for column in metrics if not column.startswith("time/")]]


def tensorboard(run: Path) -> dict[str, list[int]]:
    """Tag -> the steps it was logged at, numbers and pictures."""
    found = EventAccumulator(str(run / "fold_0/tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    numbers = {tag: [event.step for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    return numbers | {tag: [event.step for event in found.Images(tag)] for tag in found.Tags()["images"]}


def files_of(run: Path) -> set[str]:
    paths = (path.relative_to(run).as_posix() for path in run.rglob("*") if "test.parquet" not in path.name)
    return {re.sub(r"tfevents.*", "tfevents", path) for path in paths}
