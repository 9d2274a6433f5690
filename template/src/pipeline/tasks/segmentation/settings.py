"""What an experiment sets that only this kind of task has: `task: {params: {view: whole}}`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import Experiment
from pipeline.registry import Names
from toolkit.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings:
    """How images are looked at, and what of the masks is kept.

    Attributes:
        view: `crops`: training on random windows, validation and prediction on overlapping tiles; `whole`: every image
            is resized to `image.size`.
        scale: images are scaled by this before they are cropped.
        overlap: what neighbouring tiles share, over the size of a tile.
        foreground: share of the training crops that lie around a pixel of some class.
        fixed_crops: a row is always seen through the same window, to be known by heart.
        gate: the column of an earlier stage's predictions that says how likely a class is there at all, with `{class}`
            for its name: `gate:present:{class}`, or one column for all, `gate:filled:yes`; empty: none.
        tta: views that are averaged when a trained model predicts: hflip, vflip, rot90, rot180, rot270, scale:0.8.
        store: what the files of out-of-fold predictions hold: `probabilities`, decided `masks`, or `none`.
        store_scale: size of stored probabilities over that of the image.
    """

    view: Literal["crops", "whole"] = "crops"
    scale: Annotated[float, Field(gt=0)] = 1.0
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    foreground: Share = 0.5
    fixed_crops: bool = False
    gate: str = ""
    tta: tuple[str, ...] = ()
    store: Literal["probabilities", "masks", "none"] = "probabilities"
    store_scale: Annotated[float, Field(gt=0, le=1)] = 1.0


def room_settings(experiment: Experiment, names: Names) -> SegmentationSettings:
    """What the experiment sets of this room's own; a `UserError` for crops from a cache of images of one size."""
    settings: SegmentationSettings = names.bind("task", experiment.task)()
    if experiment.image.cache and settings.view == "crops":
        raise UserError(
            "image.cache holds whole images of one size, and crops are cut from images as they are; "
            "set image.cache: false, or task.params.view: whole"
        )
    return settings
