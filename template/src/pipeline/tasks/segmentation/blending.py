"""Outputs of windows, batch after batch, to a table of map cells by image."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.mask import kind_of
from pipeline.heads.mask_decoding import columns, presence_columns
from pipeline.keys import INPUT_ID, ROW_ID
from pipeline.tasks.segmentation.windows import INPUT_WINDOW, SegmentationSettings, Window
from pipeline.types import Batch
from toolkit.masks.maps import MapWriter, turned_back

LEAST = 1e-6  # weight of a window at its edge, where another one knows better


class Blender:
    """Called with the batches of a dataset in their order and the outputs of one model, it gives the predictions of the
    images that are complete after each batch.

    A window counts fully in its middle, hardly at its edge, and linearly between: over the middle half of what
    neighbours share at least. So a map depends on no edge that is farther from a pixel than the model sees. Rows of the
    map that no later window touches are compressed at once: memory grows with the width of an image and the height of a
    tile, never with its area.

    A map is stored at the resolution of the outputs or of the image, whichever is less, times `store_scale`; and as the
    competition's masks lie, where the image was turned to be seen.
    """

    def __init__(self, heads: Sequence[Head], settings: SegmentationSettings) -> None:
        self.heads, self.settings = tuple(heads), settings
        self.open: _Open | None = None
        self.nothing: pd.DataFrame | None = None

    def __call__(self, batch: Batch, outputs: Mapping[str, Tensor]) -> pd.DataFrame:
        kinds = [(kind_of(head), outputs[head.output_key]) for head in self.heads]
        maps = [kind.foreground(kind.probabilities(logits)) for kind, logits in kinds]
        said = {head: outputs[key] for head in self.heads if (key := f"{head.output_key}@presence") in outputs}
        of_presence = [column for head in said for column in presence_columns(head)]
        names = [*(column for head in self.heads for column in columns(head)), *of_presence]
        places: list[_Place] = []
        for k, numbers in enumerate(batch[INPUT_WINDOW]):
            window, name = Window.of(numbers), batch[INPUT_ID][k]
            if window.number == 0:
                self.open = _Open(name, window, maps, self.settings)
            if self.open is None or (self.open.name, self.open.next) != (name, window.number):
                raise ValueError(f"window {window.number} of '{name}' came out of order")
            places.append(self.open.place(window))
        presence, sampled = _read(maps, [logits.float().sigmoid() for logits in said.values()], places)
        found: dict[str, dict[str, object]] = {}
        for place, values, chances in zip(places, sampled, presence, strict=True):
            place.image.add(place, values, dict(zip(of_presence, chances, strict=True)))
            if place.window.number == place.window.count - 1:
                found[place.image.name] = dict(zip(names, place.image.finish(), strict=True))
                self.open = None if self.open is place.image else self.open
        # One table for all batches that complete no image: a new one for each, kept by the caller, would lie between
        # the large arrays that come and go, and the C library could not reuse their memory (2 GiB for 8192 x 8192).
        if not found and self.nothing is not None:
            return self.nothing
        index = pd.Index(list(found), dtype="str", name=ROW_ID)
        table = {
            name: pd.Series([of[name] for of in found.values()], index, np.float32 if name in of_presence else object)
            for name in names
        }
        made = pd.DataFrame(table, index=index)
        self.nothing = self.nothing if found else made
        return made


class _Open:
    """The image whose windows are coming in: a band of sums for all classes, and the writers of the rows above it."""

    def __init__(self, name: str, window: Window, maps: Sequence[Tensor], settings: SegmentationSettings) -> None:
        self.name, self.size, self.turn, self.next = name, window.size, window.turn, 0
        self.overlap = settings.overlap if settings.view == "crops" else 0.0
        sides = zip(window.size, maps[0].shape[-2:], (window.height, window.width), strict=True)
        height, width = (max(1, round(side * min(1.0, out / of) * settings.store_scale)) for side, out, of in sides)
        self.stored = height, width
        self.writers = [MapWriter(self.size, self.stored) for values in maps for _ in range(values.shape[1])]
        self.first = 0  # the stored row at which the band begins
        self.sums = np.zeros((len(self.writers), 0, width), np.float32)
        self.weights = np.zeros((0, width), np.float32)
        self.presence: dict[str, float] = {}

    def place(self, window: Window) -> "_Place":
        """Where the next window lies."""
        self.next += 1
        top, rows = self._along(0, window.top, window.height)
        left, across = self._along(1, window.left, window.width)
        return _Place(self, window, top, left, rows, across)

    def add(self, place: "_Place", sampled: np.ndarray, presence: Mapping[str, float]) -> None:
        """Blend in one window: what is sampled there of all classes, (C, rows, columns), and presence by column."""
        top, rows, left, across = place.top, place.rows, place.left, place.across
        self._write(top)
        weights = np.outer(self._ramp(rows, place.window.height), self._ramp(across, place.window.width))
        more = top + len(rows) - self.first - len(self.weights)
        if more > 0:
            self.sums = np.pad(self.sums, ((0, 0), (0, more), (0, 0)))
            self.weights = np.pad(self.weights, ((0, more), (0, 0)))
        inside = (slice(top - self.first, top - self.first + len(rows)), slice(left, left + len(across)))
        self.sums[(slice(None), *inside)] += sampled * weights
        self.weights[inside] += weights
        self.presence = {name: np.maximum(self.presence.get(name, value), value) for name, value in presence.items()}

    def finish(self) -> list[object]:
        """The cells of all classes, and how likely they are there."""
        self._write(self.stored[0])
        return [*(turned_back(writer.finish(), self.turn) for writer in self.writers), *self.presence.values()]

    def _along(self, axis: int, begin: int, length: int) -> tuple[int, np.ndarray]:
        """The first stored row (or column) whose centre the window shows, and where the centres of it and its
        successors lie in the window, as shares of it, float32."""
        scale = self.stored[axis] / self.size[axis]
        first = max(0, math.ceil(begin * scale - 0.5))
        last = min(self.stored[axis], math.ceil((begin + length) * scale - 0.5))
        centres = (np.arange(first, last) + 0.5) / scale
        return first, ((centres - begin) / length).astype(np.float32)

    def _ramp(self, shares: np.ndarray, length: int) -> np.ndarray:
        """Weights of places in a window, float32."""
        edge = np.minimum(shares, 1 - shares)
        if self.overlap * length < 2:
            return np.ones_like(edge)
        weights: np.ndarray = np.clip((edge - self.overlap / 4) / (self.overlap / 2), LEAST, 1).astype(np.float32)
        return weights

    def _write(self, end: int) -> None:
        """Compress the rows above `end`, which nothing is added to any more."""
        done = min(end - self.first, len(self.weights))
        if done <= 0:
            return
        for sums, writer in zip(self.sums, self.writers, strict=True):
            writer.add(np.rint(255 * np.clip(sums[:done] / self.weights[:done], 0, 1)).astype(np.uint8))
        self.sums, self.weights, self.first = self.sums[:, done:].copy(), self.weights[done:].copy(), self.first + done


class _Place(NamedTuple):
    """A window in the map of its image: the first stored row and column, and the centres of all of them in it."""

    image: _Open
    window: Window
    top: int
    left: int
    rows: np.ndarray
    across: np.ndarray


def _read(
    maps: Sequence[Tensor], presence: Sequence[Tensor], places: Sequence[_Place]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Presence (B, classes) of all heads, and what each place asks of the maps (B, C, h, w), (C, rows, columns): with
    one copy to the device and one back, for which a GPU waits."""
    shares = [shares for place in places for shares in (place.rows, place.across)]
    flat, device = torch.from_numpy(np.concatenate(shares)), maps[0].device
    pinned = torch.empty(flat.shape, pin_memory=maps[0].is_cuda).copy_(flat)
    grid = pinned.to(device, non_blocking=True).split([len(each) for each in shares])
    sampled = [
        torch.cat([sample(values[k], place.rows, place.across, grid[2 * k : 2 * k + 2]) for values in maps])
        for k, place in enumerate(places)
    ]
    asked = [*presence, *sampled]
    flat = torch.cat([each.flatten() for each in asked]).cpu().split([each.numel() for each in asked])
    found = [part.view(each.shape).numpy() for part, each in zip(flat, asked, strict=True)]
    heads = len(presence)
    return np.concatenate([np.empty((len(places), 0), np.float32), *found[:heads]], axis=1), found[heads:]


def sample(values: Tensor, rows: np.ndarray, columns: np.ndarray, grid: Sequence[Tensor]) -> Tensor:
    """Maps (C, h, w) at shares of their height and width, which are in `grid` too, on their device: bilinear,
    (C, len(rows), len(columns)).

    Where the maps are much denser than what is asked for, they are averaged first.
    """
    size = [
        round(1 / float(shares[1] - shares[0])) if len(shares) > 1 else side
        for shares, side in ((rows, values.shape[1]), (columns, values.shape[2]))
    ]
    if size[0] < 0.75 * values.shape[1] or size[1] < 0.75 * values.shape[2]:
        size = [min(size[0], values.shape[1]), min(size[1], values.shape[2])]
        values = functional.interpolate(values[None], size=size, mode="area")[0]
    down, across = (2 * shares - 1 for shares in grid)
    points = torch.stack([across.expand(len(rows), -1), down[:, None].expand(-1, len(columns))], dim=2)
    return functional.grid_sample(values[None], points[None], padding_mode="border", align_corners=False)[0]
