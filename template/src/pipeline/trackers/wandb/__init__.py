"""Weights & Biases: an experiment is a group, a fold is a job in it. It asks nothing and holds nothing up."""

import netrc
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from pipeline.trackers import Overlay, Points, RunInfo, Tracker, say_once
from pipeline.trackers.images import pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 200  # of a curve
INIT_SECONDS = 15  # how long a server may take to answer before the run goes on offline
FINISH_SECONDS = 300  # how long the last upload may take; `wandb sync` sends what is left
HOSTED = "api.wandb.ai"  # what .netrc calls the hosted server, whatever address stands before it


class WandbTracker(Tracker):
    """One W&B run; its files lie in the run's folder."""

    def __init__(self, info: RunInfo) -> None:
        import wandb

        self.job = f"fold_{info.fold}"
        self.artifact = re.sub(r"[^\w.-]", "_", f"{info.experiment}-{self.job}")
        self.pending: dict[str, Any] = {}
        self.step = info.step
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        offline = settings.mode == "online" and _offline_because(settings, info)
        try:
            self.run = self._start(info, mode="offline" if offline else None)
        except (wandb.Error, TimeoutError) as error:
            _unreachable.append(next(iter(str(error).splitlines()), type(error).__name__))
            _offline_because(settings, info)
            wandb.teardown()  # its service still holds the run's id
            wandb.setup(wandb.Settings(silent=True))
            self.run = self._start(info, mode="offline")

    def _start(self, info: RunInfo, mode: Any) -> Any:
        import wandb

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

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Numbers of one step are gathered and sent as one row."""
        self._add(values, step)

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """A picture in the row of its step."""
        import wandb

        self._add({name: wandb.Image(pixels(figure))}, step)

    def histogram(self, name: str, values: "np.ndarray", step: int) -> None:
        """A histogram in the row of its step."""
        import wandb

        self._add({name: wandb.Histogram(np_histogram=np.histogram(values, bins=64))}, step)

    def pr_curve(self, name: str, truth: "np.ndarray", scores: "np.ndarray", step: int) -> None:
        """A line of precision over recall, of a table with both."""
        import wandb
        from sklearn.metrics import precision_recall_curve

        precision, recall, _ = precision_recall_curve(truth, scores)
        picked = np.unique(np.linspace(0, len(recall) - 1, MOST_POINTS).round().astype(int))
        curve = pd.DataFrame({"recall": recall[picked], "precision": precision[picked]})
        table = wandb.Table(dataframe=curve)
        self._add({name: wandb.plot.line(table, "recall", "precision", title=name)}, step)

    def table(self, name: str, table: pd.DataFrame, images: "Sequence[np.ndarray]", step: int) -> None:
        """A table, with images in a column of their own."""
        import wandb

        shown = table.copy()
        if len(images):
            shown.insert(0, "image", [wandb.Image(image) for image in images])
        self._add({name: wandb.Table(dataframe=shown)}, step)

    def overlay(self, name: str, overlay: Overlay, step: int) -> None:
        """An image whose masks W&B switches on and off."""
        import wandb

        labels = {0: "none", **overlay.classes}
        masks = {key: {"mask_data": mask, "class_labels": labels} for key, mask in overlay.masks.items()}
        self._add({name: wandb.Image(overlay.image, masks=masks)}, step)

    def embedding(self, name: str, points: Points, step: int) -> None:
        """A table with a column of vectors, which W&B can project."""
        import wandb

        shown = pd.DataFrame(points.vectors).add_prefix("dimension_")
        shown.insert(0, "label", list(points.labels))
        self._add({name: wandb.Table(dataframe=shown)}, step)

    def summary(self, values: dict[str, Any]) -> None:
        """The final values, in the table of runs."""
        self._send()  # a row that is sent later would overwrite them with its own
        self.run.summary.update(values)

    def checkpoint(self, path: Path) -> None:
        """The best weights as an artifact."""
        import wandb

        artifact = wandb.Artifact(self.artifact, type="model")
        artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def finish(self, succeeded: bool) -> None:
        """Send the rest and close."""
        self._send()
        self.run.finish(exit_code=0 if succeeded else 1)

    def _add(self, values: dict[str, Any], step: int) -> None:
        if step != self.step:
            self._send()
            self.step = step
        self.pending.update(values)

    def _send(self) -> None:
        if self.pending:
            self.run.log(self.pending, step=self.step)
            self.pending = {}


_unreachable: list[str] = []  # why the server gave no answer; the next folds do not wait for it again


def _offline_because(settings: Any, info: RunInfo) -> bool:
    """Whether to stay offline without being asked; if so, say why and how to upload later, once."""
    if not _unreachable and _has_key(settings.base_url, settings.api_key):
        return False
    reason = f"cannot be used now ({_unreachable[0]})" if _unreachable else "has no API key"
    login = "" if _unreachable else "wandb login && "
    folder = info.folder.parent
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    pattern = f"{shlex.quote(str(shown))}/fold_*/wandb/offline-run-*"
    say_once(f"W&B {reason}, so the run is logged offline; upload it later with: {login}wandb sync {pattern}")
    return True


def _has_key(server: str, key: str | None) -> bool:
    """Whether wandb will find a key without asking for it."""
    if key or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    candidates = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for path in (Path(candidate).expanduser() for candidate in candidates if candidate):
        try:
            hosts = netrc.netrc(path).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        return bool({urlsplit(server).netloc, HOSTED} & set(hosts))
    return False


TRACKER = WandbTracker
