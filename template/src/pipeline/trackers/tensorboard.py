"""TensorBoard: `tensorboard --logdir runs` shows every experiment and fold on this machine."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from pipeline.trackers import Points, RunInfo, Tracker

FOLDER = "tensorboard"
MOST_ROWS = 50  # of a table


class TensorBoardTracker(Tracker):
    """Event files in the run's folder."""

    in_order = False

    def __init__(self, info: RunInfo) -> None:
        folder = info.folder / FOLDER
        continues = folder.is_dir() and any(folder.iterdir())
        # TensorBoard hides what an earlier process logged at this step or later; this one logs it again.
        purge_step = info.step + 1 if continues else None
        self.writer: Any = SummaryWriter(str(folder), purge_step=purge_step)  # type: ignore[no-untyped-call]
        self.config = info.config
        self.step = info.step

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self.step = step

    def figure(self, name: str, figure: bytes, step: int) -> None:
        width, height = Image.open(io.BytesIO(figure)).size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=figure)
        # `SummaryWriter.add_image` would encode it once more.
        self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def summary(self, values: dict[str, Any]) -> None:
        final = {tag: float(value) for tag, value in values.items() if isinstance(value, (int, float))}
        flat = pd.json_normalize(self.config).iloc[0].to_dict() if self.config else {}
        settings = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in flat.items()
        }
        # `SummaryWriter.add_hparams` would open a second run, named by the time, below this one.
        for event in hparams(settings, final):  # type: ignore[no-untyped-call]
            self.writer.file_writer.add_summary(event)
        self.scalars(final, self.step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self.writer.add_histogram(name, values, step)

    def pr_curve(self, name: str, truth: np.ndarray, scores: np.ndarray, step: int) -> None:
        self.writer.add_pr_curve(name, truth, scores, step)

    def table(self, name: str, table: pd.DataFrame, images: Sequence[np.ndarray], step: int) -> None:
        cells = table.head(MOST_ROWS).to_numpy(dtype=object).tolist()
        lines = [list(table.columns), ["---"] * len(table.columns), *cells]
        text = "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
        self.writer.add_text(name, text, step)

    def embedding(self, name: str, points: Points, step: int) -> None:
        pictures = None
        if len(points.images):
            pictures = torch.from_numpy(np.stack(points.images)).permute(0, 3, 1, 2).float() / 255
        self.writer.add_embedding(points.vectors, list(points.labels), pictures, step, name)

    def finish(self, succeeded: bool) -> None:
        self.writer.close()


TRACKER = TensorBoardTracker
