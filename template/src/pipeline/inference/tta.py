"""Views of images, whose predictions join those of the image itself: flips, turns, scales, crops (`tta`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.config import Experiment
from pipeline.keys import INPUT_IMAGE
from pipeline.registry import Registry
from pipeline.tasks import Task
from pipeline.tasks.components import Outputs
from pipeline.types import Batch
from toolkit.errors import UserError, nearest

Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class View:
    """How images (B, H, W, C) are changed, and maps (B, C, h, w) of what was seen changed back, given the size of the
    images; without `undo` it is for heads of whole images. A view that `moves` nothing leaves left and right alone."""

    change: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor, Size], Tensor] | None = None
    moves: bool = True


def hflip() -> View:
    return View(lambda images: images.flip(2), lambda maps, _: maps.flip(3))


def vflip() -> View:
    return View(lambda images: images.flip(1), lambda maps, _: maps.flip(2))


def _turned(times: int) -> View:
    return View(lambda images: images.rot90(times, (1, 2)), lambda maps, _: maps.rot90(-times, (2, 3)))


rot90, rot180, rot270 = (partial(_turned, times) for times in (1, 2, 3))


def scale(*, by: float) -> View:
    """The whole image at another size."""
    if not 0.1 <= by <= 10:
        raise UserError(f"tta: scale:{by:g} is outside 0.1 to 10")

    def change(images: Tensor) -> Tensor:
        return _resized_images(images, (max(1, round(images.shape[1] * by)), max(1, round(images.shape[2] * by))))

    return View(change, _resized, moves=False)


def crop(*, by: float, place: tuple[float, float] = (0.5, 0.5)) -> View:
    """A part of the image at the size of the whole; `place` is 0 at the top and the left, 1 at the bottom and the
    right."""
    if not 0.1 <= by <= 1 or not 0 <= min(place) <= max(place) <= 1:
        raise UserError(f"tta: crop:{by:g} at {place} is no part of an image; by is 0.1 to 1, and a place 0 to 1")

    def change(images: Tensor) -> Tensor:
        size = (images.shape[1], images.shape[2])
        height, width = (max(1, round(side * by)) for side in size)
        top, left = round((size[0] - height) * place[0]), round((size[1] - width) * place[1])
        return _resized_images(images[:, top : top + height, left : left + width], size)

    return View(change, moves=False)


def _resized_images(images: Tensor, size: Size) -> Tensor:
    changed = _resized(images.permute(0, 3, 1, 2).float(), size).permute(0, 2, 3, 1)
    return changed if images.is_floating_point() else changed.round().clamp(0, 255).to(images.dtype)


def _resized(maps: Tensor, size: Size) -> Tensor:
    smaller = size[0] < maps.shape[2]
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=smaller)


def views_of(
    experiment: Experiment, names: Registry, heads: Mapping[Head, str]
) -> dict[str, tuple[View, dict[str, list]]]:
    """The views of an experiment by what they are called (`scale:0.8`), each with the order by which the outputs of
    classes that it swaps are put back, by output key. A `UserError` for one that a head does not know how to undo.
    `heads` are given with what their logits are (`Predictions.logits`)."""
    found = {}
    for entry in experiment.tta:
        view, label = names.bind("view", entry)(), f"{entry.name}:{entry.params.get('by', '')}".rstrip(":")
        while label in found:  # crops at other places
            label += "'"
        if not isinstance(view, View):
            raise UserError(f"view '{entry.name}' gives a {type(view).__name__}; return a pipeline.inference.tta.View")
        orders = {}
        for head, logits in heads.items():
            where = f"tta: the head '{head.name}'"
            if view.undo is None and head.kind.endswith("mask"):
                raise UserError(f"{where} has maps, which cannot be changed back under '{label}'; leave it out")
            if view.moves and head.swaps and entry.name not in head.swaps:
                remedy = "say so in src/competition/targets.py (an empty list where none do), or leave the view out"
                raise UserError(f"{where} does not say which of its classes swap under '{entry.name}'; {remedy}")
            orders[head.output_key] = order_of(head, logits, entry.name)
        found[label] = view, {key: order for key, order in orders.items() if order}
    return found


def order_of(head: Head, logits: str, view: str) -> list[int]:
    """Where each class of a head stands among its outputs under a view; empty where all stay."""
    order = {name: number for number, name in enumerate(head.classes)}
    for pair in head.swaps.get(view, ()):
        unknown = next((name for name in pair if name not in order), None)
        if unknown is not None or len(pair) != 2 or logits not in ("softmax", "sigmoid"):
            why = f"'{unknown}' is none of its classes, {nearest(str(unknown), order)}" if unknown is not None else ""
            why = why or "a pair of classes is expected, of a head with an output for each class"
            raise UserError(f"head '{head.name}' has swaps under '{view}' that cannot be: {why}")
        order[pair[0]], order[pair[1]] = order[pair[1]], order[pair[0]]
    return list(order.values()) if head.swaps.get(view) else []


class TTAModel(nn.Module):
    """A model on images as they are and on each view: batch dict in; out come output dicts, which the task decodes and
    averages, one for each view with `each`, else as few as the task makes of them (`Task.average_views`)."""

    def __init__(self, model: nn.Module, task: Task, experiment: Experiment, names: Registry, each: bool) -> None:
        super().__init__()
        self.model, self.task, self.each = model, task, each
        self.views = views_of(experiment, names, task.predictions.logits())

    def forward(self, batch: Batch) -> Sequence[Outputs]:
        if not self.each:
            return self.task.average_views(self._views(batch))
        plain, *views = self._views(batch)
        return [plain[0], *(self.task.average_views([view])[0] for view in views)]

    def _views(self, batch: Batch) -> Iterator[tuple[Outputs, Callable[[Outputs], Outputs]]]:
        """What the model says of each view, and how that is undone."""
        yield self.model(batch), lambda outputs: outputs
        images: Tensor = batch[INPUT_IMAGE]
        for name, (view, _) in self.views.items():
            changed = view.change(images).contiguous()
            try:
                outputs = self.model({**batch, INPUT_IMAGE: changed})
            except AssertionError as error:  # timm's, of an encoder for images of one size
                if changed.shape == images.shape:
                    raise
                raise UserError(f"tta: the model takes no images of the size of '{name}'; leave it out") from error
            yield outputs, partial(self._undone, name, (images.shape[1], images.shape[2]))

    def _undone(self, name: str, size: Size, outputs: Outputs) -> Outputs:
        """Maps changed back, and the outputs of classes that swap put back; `size` is that of the images."""
        (view, orders), found = self.views[name], dict(outputs)
        for key, value in outputs.items():
            if value.ndim == 4 and view.undo is not None:
                found[key] = view.undo(value, size)
            if order := orders.get(key) or orders.get(key.rpartition("@")[0]):
                first = value.shape[1] - len(order)  # behind the background
                found[key] = found[key][:, [*range(first), *(first + number for number in order)]]
        return found
