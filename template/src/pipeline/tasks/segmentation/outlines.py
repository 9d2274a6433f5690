"""Masks as outlines in json files: which image of a file a row is, and where the classes are in it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.tables import image_paths
from pipeline.heads.mask_decoding import IGNORED
from pipeline.keys import ROW_ID, ROW_IMAGE
from pipeline.tasks.segmentation.forms import Form, Image
from pipeline.tasks.segmentation.truth import Truth, Window
from toolkit.errors import UserError, listed, nearest
from toolkit.files import read_bytes, shown
from toolkit.masks.outlines import Outlined, Polygon, filled, has_inner, image_in, images_in
from toolkit.masks.sizes import Frame, Size, known_header

BEYOND = 2.0  # pixels that an outline may leave the image


@dataclass(frozen=True, eq=False)
class PolygonTruth(Truth):
    """Masks as outlines, filled with the pixels on them."""

    objects: tuple[tuple[tuple[Polygon, ...], ...], ...]  # of each class, each object the union of its polygons
    crowds: tuple[tuple[tuple[Polygon, ...], ...], ...] = ()  # the same of what is ignored
    given: Size | None = None  # height and width of the image, where the file of the outlines says them
    unread: tuple[str, ...] = ()  # what of the file was not read, in words

    def _own_size(self) -> Size | None:
        return self.given or super()._own_size()

    def _planes(self, window: Window) -> np.ndarray:
        planes = np.stack([filled(of_class, window) for of_class in self.objects])
        for plane, crowds in zip(planes, self.crowds, strict=False):
            plane[(filled(crowds, window) == 1) & (plane == 0)] = IGNORED
        return planes

    def all_objects(self) -> list[tuple[Polygon, ...]]:
        """Those of every class, crowds among them."""
        return [polygons for of_class in (*self.objects, *self.crowds) for polygons in of_class]

    def wrong(self) -> str:
        if self.given is None or not isinstance(self.image, Path):
            return ""
        header = known_header(self.image)
        if self.given in (header.stored, header.size):
            return ""
        return (
            "its outlines are of an image of {} x {} pixels (height x width), and the file has {} x {}; scale the "
            "points, or correct the size in the file of the outlines".format(*self.given, *header.size)
        )

    def odd(self) -> list[str]:
        objects = self.all_objects()
        outer = [[polygon[0] for polygon in polygons] for polygons in objects]
        points = np.concatenate([np.zeros((0, 2)), *(ring for rings in outer for ring in rings)])
        told = list(self.unread)
        if (points < -BEYOND).any() or (points > np.array(self.size[::-1]) + BEYOND).any():
            told.append("an outline leaves the image")
        if not all(self._inside(polygons)[0].any() for polygons in objects):
            told.append("an outline lies outside of the image, or has no area")
        if any(has_inner(polygons) for polygons in objects):
            told.append("an outline lies within another one of its object, and is filled (only GeoJSON has holes)")
        if len({np.concatenate(rings).tobytes() for rings in outer}) < len(outer):
            told.append("an outline stands twice")
        return told

    def instances(self, class_index: int) -> Iterator[np.ndarray]:
        whole = (0, 0, *self.size)
        drawn = (filled([polygons], whole).view(bool) for polygons in self.objects[class_index])
        return (mask for mask in drawn if mask.any())

    def _pixel(self, class_index: int, generator: np.random.Generator) -> tuple[int, int]:
        objects = self.objects[class_index]
        first = int(generator.integers(len(objects)))
        for polygons in (*objects[first:], *objects[:first]):  # one that lies outside of the image has no pixel
            plane, top, left = self._inside(polygons)
            if plane.any():
                break
        places = np.argwhere(plane)
        row, column = places[generator.integers(len(places))].tolist()
        return row + top, column + left

    def _inside(self, polygons: tuple[Polygon, ...]) -> tuple[np.ndarray, int, int]:
        """The pixels of an object in the image, uint8 (h, w), and the row and column where they begin."""
        points = np.concatenate([polygon[0] for polygon in polygons])
        left, top = np.maximum(np.floor(points.min(axis=0)), 0).astype(int).tolist()
        right, bottom = np.minimum(np.ceil(points.max(axis=0)) + 1, self.size[::-1]).astype(int).tolist()
        return filled([polygons], (top, left, max(bottom - top, 0), max(right - left, 0))), top, left


@dataclass(frozen=True)
class Polygons(Form):
    """Outlines in json: a file for each image, or one for all.

    Known contents: a list of objects with `class` (or `label`, `category`) and `points` (or `polygon`,
    `segmentation`), alone, under a key such as `shapes`, or by image id; COCO (`images`, `annotations`, `categories`);
    and GeoJSON, whose rings after the first are holes.

    Attributes:
        path: below the data folder, with columns in braces where each image has a file.
        names: class by the name in the file, where they differ.
        frame: see `RunLengths`; none: as height and width in the file tell, else as the image is seen.
    """

    path: str
    names: Mapping[str, str] | None = None
    frame: Frame | None = None

    def truths(
        self, table: pd.DataFrame, rows: pd.DataFrame, images: Sequence[Image], classes: tuple[str, ...], data: Path
    ) -> list[Truth]:
        if "{" in self.path:
            files = image_paths(rows, self.path, data)
            found: list[Outlined | None] = [image_in(_json(data / path), path) for path in files]
        else:
            known = images_in(_json(data / self.path))
            found = matched(known, list(rows[ROW_ID]), list(rows[ROW_IMAGE]))
            if known and not any(found):
                raise UserError(
                    f"{self.path} has objects of {listed(each.name for each in known)}, and none of them is an id "
                    f"({listed(rows[ROW_ID])}); make the ids alike in src/competition/tables.py"
                )
        named = zip(found, images, rows[ROW_ID], strict=True)
        return [self._truth(outlined, classes, image, name) for outlined, image, name in named]

    def _truth(self, outlined: Outlined | None, classes: tuple[str, ...], image: Image, name: str) -> PolygonTruth:
        """The objects of an image by class, as far as the file names it. A single class needs no name."""
        if outlined is None:
            unread = ("the file of outlines does not name the image, which is read as empty",)
            return PolygonTruth(classes, image, ((),) * len(classes), unread=unread, frame=self.frame)
        objects: list[list[tuple[Polygon, ...]]] = [[] for _ in classes]
        crowds: list[list[tuple[Polygon, ...]]] = [[] for _ in classes]
        for each in outlined.objects:
            label = (self.names or {}).get(each.label, each.label)
            label = label or (classes[0] if len(classes) == 1 else "")
            if label not in classes:
                raise UserError(
                    f"an object of '{name}' in {self.path} is of the class '{label}', which is not in CLASSES of "
                    f"src/competition/targets.py; {nearest(label, classes)}"
                )
            if each.polygons:
                (crowds if each.crowd else objects)[classes.index(label)].append(each.polygons)
        return PolygonTruth(
            classes,
            image,
            tuple(map(tuple, objects)),
            crowds=tuple(map(tuple, crowds)) if any(crowds) else (),
            given=outlined.size if isinstance(image, Path) else None,
            unread=tuple(dict.fromkeys(each.odd for each in outlined.objects if each.odd)),
            frame=self.frame,
        )


def _json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise UserError(f"{shown(path)} is not json ({error}); download it again") from error
    except UserError as error:
        raise UserError(str(error).replace("image", "file", 1)) from error


def matched(images: Sequence[Outlined], ids: Sequence[str], paths: Sequence[str]) -> list[Outlined | None]:
    """The image in the file that each row is: the one whose path has most folders at its end in common with the row's
    path or id; none where another row is more like it.

    Raises:
        UserError: several images could be that of a row, or one that of several rows.
    """
    by_stem: dict[str, list[int]] = {}
    for number, image in enumerate(images):
        for stem in {_parts(image.name)[-1], image.name}:
            by_stem.setdefault(stem, []).append(number)
    chosen: list[int | None] = []
    owners: dict[int, tuple[int, int]] = {}  # of an image: how much the row that is most like it is so, and which it is
    for row, (name, path) in enumerate(zip(ids, paths, strict=True)):
        ways = (_parts(path), _parts(name), (name,))
        found = {number for way in ways for number in by_stem.get(way[-1], [])}
        alike = {number: max(_alike(images[number].name, way) for way in ways) for number in sorted(found)}
        best = [number for number in alike if alike[number] == max(alike.values())]
        if len(best) > 1:
            names = listed(sorted({images[number].name for number in best}))
            raise UserError(
                f"several images of the file of outlines ({names}) could be that of '{name}'; they need names that "
                "differ, with the folder, as their image has it"
            )
        chosen.append(best[0] if best else None)
        for number in best:
            much, other = owners.get(number, (0, row))
            if paths[other] != path and much == alike[number]:
                raise UserError(
                    f"the outlines of '{images[number].name}' could be those of '{ids[other]}' and of '{name}'; the "
                    "file has to name the folder of the image as well"
                )
            if alike[number] > much:
                owners[number] = alike[number], row
    owned = [number is not None and paths[owners[number][1]] == paths[row] for row, number in enumerate(chosen)]
    return [images[number] if mine and number is not None else None for number, mine in zip(chosen, owned, strict=True)]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and name without its extension."""
    return PurePosixPath(name).with_suffix("").parts if name.strip("/. ") else (name,)


def _alike(name: str, others: tuple[str, ...]) -> int:
    """How many parts at the end are the same; one more where all of both are."""
    parts = (name,) if others == (name,) else _parts(name)
    pairs = zip(reversed(parts), reversed(others), strict=False)
    count = next((k for k, (one, other) in enumerate(pairs) if one != other), min(len(parts), len(others)))
    return count + (parts == others)
