"""Weights & Biases: an experiment is a group, a fold is a job in it. It asks nothing and holds nothing up."""

import os
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import wandb

from pipeline.trackers import Overlay, Points, RunInfo, Tracker, say_once

INIT_SECONDS = 15  # how long a server may take to answer before the run goes on offline
FINISH_SECONDS = 300  # how long the last upload may take; `wandb sync` sends what is left
_unreachable: list[str] = []  # why the server gave no answer; the next folds do not wait for it again


class WandbTracker(Tracker):
    """One W&B run; its files lie in the run's folder."""

    def __init__(self, info: RunInfo) -> None:
        self.job = f"fold_{info.fold}"
        self.artifact = re.sub(r"[^\w.-]", "_", f"{info.experiment}-{self.job}")
        self.pending: dict[str, Any] = {}
        self.step = info.step
        self.pictures = tempfile.TemporaryDirectory()  # until W&B has copied them; arrays it would encode once more
        online = wandb.setup(wandb.Settings(silent=True)).settings.mode == "online"
        if online and not _unreachable and wandb.login(prompt=False, verify=False):
            try:
                self.run = self._start(info, mode=None)
                return
            except (wandb.Error, TimeoutError) as error:
                _unreachable.append(next(iter(str(error).splitlines()), type(error).__name__))
                wandb.teardown()  # its service still holds the run's id
                wandb.setup(wandb.Settings(silent=True))
        if online:
            _say_offline(info.folder.parent)
        self.run = self._start(info, mode="offline" if online else None)

    def _start(self, info: RunInfo, mode: Any) -> Any:
        info.folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT") or info.project,
            group=info.experiment,
            job_type=self.job,
            name=f"{info.experiment}/{self.job}",
            id=info.run_id,
            resume="allow",
            config=info.config,
            tags=info.tags,
            dir=info.folder,
            mode=mode,
            settings=wandb.Settings(
                silent=True,
                console="off",  # the terminal is ours: wandb would rewrite its lines
                init_timeout=INIT_SECONDS,
                login_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
            ),
        )

    def scalars(self, values: dict[str, Any], step: int) -> None:
        """Gather what is logged at one step, and send it as one row."""
        if step != self.step:
            self._send()
            self.step = step
        self.pending.update(values)

    def figure(self, name: str, figure: bytes, step: int) -> None:
        self.scalars({}, step)  # sends what is of an earlier step, and removes its pictures
        path = Path(self.pictures.name, f"{uuid4().hex}.png")
        path.write_bytes(figure)
        self.scalars({name: wandb.Image(str(path))}, step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self.scalars({name: wandb.Histogram(np_histogram=np.histogram(values, bins=64))}, step)

    def pr_curve(self, name: str, truth: np.ndarray, scores: np.ndarray, step: int) -> None:
        both, labels = np.column_stack([1 - scores, scores]), ["other", name]
        curve = wandb.plot.pr_curve(truth.astype(int), both, labels, classes_to_plot=[1], title=name)
        self.scalars({name: curve}, step)

    def table(self, name: str, table: pd.DataFrame, images: Sequence[np.ndarray], step: int) -> None:
        if len(images):
            table = table.copy()
            table.insert(0, "image", [wandb.Image(image) for image in images])
        self.scalars({name: wandb.Table(dataframe=table)}, step)

    def overlay(self, name: str, overlay: Overlay, step: int) -> None:
        labels = {0: "none", **overlay.classes}
        masks = {key: {"mask_data": mask, "class_labels": labels} for key, mask in overlay.masks.items()}
        self.scalars({name: wandb.Image(overlay.image, masks=masks)}, step)

    def embedding(self, name: str, points: Points, step: int) -> None:
        table = pd.DataFrame(points.vectors).add_prefix("dimension_")
        table.insert(0, "label", list(points.labels))
        self.scalars({name: wandb.Table(dataframe=table)}, step)

    def summary(self, values: dict[str, Any]) -> None:
        self._send()  # a row that is sent later would overwrite them with its own
        self.run.summary.update(values)

    def checkpoint(self, path: Path) -> None:
        artifact = wandb.Artifact(self.artifact, type="model")
        artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def finish(self, succeeded: bool) -> None:
        self._send()
        self.pictures.cleanup()
        self.run.finish(exit_code=0 if succeeded else 1)

    def _send(self) -> None:
        if self.pending:
            self.run.log(self.pending, step=self.step)
            self.pending = {}
            for path in Path(self.pictures.name).iterdir():
                path.unlink()


def _say_offline(folder: Path) -> None:
    """Say why a run is logged offline, and how to upload it later, once."""
    reason = f"cannot be used now ({_unreachable[0]})" if _unreachable else "has no API key"
    login = "" if _unreachable else "wandb login && "
    relative = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    pattern = f"{shlex.quote(str(relative))}/fold_*/wandb/offline-run-*"
    say_once(f"W&B {reason}, so the run is logged offline; upload it later with: {login}wandb sync {pattern}")


TRACKER = WandbTracker
