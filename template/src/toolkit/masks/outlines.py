"""Outlines of objects as json files hold them: COCO, GeoJSON, labelme, and lists of classes and points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from toolkit.errors import UserError, listed
from toolkit.masks import rle
from toolkit.masks.sizes import Size

CLASS_KEYS = ("class", "label", "category", "name", "type")
POINT_KEYS = ("points", "polygon", "segmentation", "coordinates", "vertices", "geometry")
LIST_KEYS = ("shapes", "objects", "annotations", "polygons", "features")
GEOMETRIES = ("Feature", "Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString")
CIRCLE = 64  # points of one
Polygon = tuple[np.ndarray, ...]  # an outer ring and its holes: float (points, 2) of x and y
FAR = 1 << 24  # pixels from the window, beyond which it does not matter where a point lies


@dataclass(frozen=True)
class Object:
    """An object of an image, the union of its polygons."""

    label: str  # its class; empty where it has none
    polygons: tuple[Polygon, ...]
    crowd: bool = False  # of COCO, whose pixels neither train nor score
    odd: str = ""  # why nothing of it, or not all of it, is read
    size: Size | None = None  # height and width of the image, where its mask says them


@dataclass(frozen=True)
class Outlined:
    """The objects of an image, the name the file gives it, and its height and width where the file says them."""

    name: str
    objects: tuple[Object, ...]
    size: Size | None = None


def images_in(content: Any) -> list[Outlined]:
    """The images in a file for all of them: COCO, or a mapping from ids to lists of objects; else a `UserError`."""
    if not isinstance(content, Mapping):
        raise UserError(f"a json file of masks holds a {type(content).__name__}; COCO, or objects by id, are read")
    if isinstance(content.get("annotations"), list) and "images" in content:
        return _coco(content)
    return [image_in(objects, str(name)) for name, objects in content.items()]


def image_in(content: Any, name: str) -> Outlined:
    """The objects of one image; a `UserError` where the content is no list of them."""
    size = None
    if isinstance(content, Mapping):
        size = _size(content, "imageHeight", "imageWidth")
        content = next((content[key] for key in LIST_KEYS if key in content), content)
    if not isinstance(content, list):
        raise UserError(f"a json file of masks holds no list of objects ({listed(content)}); read it in tables.py")
    return _outlined(name, [_object(each, name) for each in content], size)


def _coco(content: Mapping[str, Any]) -> list[Outlined]:
    found: dict[Any, list[Object]] = {image.get("id"): [] for image in content["images"]}
    if len(found) < len(content["images"]) or not all("file_name" in image for image in content["images"]):
        raise UserError("COCO: an image is named twice, or has no file_name; mend the file")
    classes = {each["id"]: str(each.get("name", each["id"])) for each in content.get("categories", [])}
    for each in content["annotations"]:
        name, category = each.get("image_id"), each.get("category_id", "")
        if name not in found:
            raise UserError(f"an annotation names the image {name}, which is not among its images; mend the file")
        made = _outline(classes.get(category, str(category)), each.get("segmentation") or [], False, f"image {name}")
        found[name].append(replace(made, crowd=bool(each.get("iscrowd"))))
    return [
        _outlined(image["file_name"].replace("\\", "/"), found[image["id"]], _size(image, "height", "width"))
        for image in content["images"]
    ]


def _size(about: Mapping[str, Any], height: str, width: str) -> Size | None:
    size = int(about.get(height) or 0), int(about.get(width) or 0)
    return size if min(size) > 0 else None


def _outlined(name: str, objects: Sequence[Object], size: Size | None) -> Outlined:
    """With the size that the masks say, where the image says none; a `UserError` where they differ."""
    sizes = {each for each in (size, *(each.size for each in objects)) if each}
    if len(sizes) > 1:
        raise UserError(
            f"an RLE of '{name}' is of another size (height, width) than a second one, and the image of {size}; mend it"
        )
    return Outlined(name, tuple(objects), next(iter(sizes), None))


def _object(each: Any, where: str) -> Object:
    if not isinstance(each, Mapping):
        return _outline("", each, False, where)
    points = next((each[key] for key in POINT_KEYS if key in each), None)
    if points is None:
        raise UserError(f"an object of a json file has the keys {listed(each, 6)} and no '{POINT_KEYS[0]}'")
    made = _outline(_label(each), points, "coordinates" in each or "geometry" in each, where)
    form = each.get("shape_type")  # of labelme
    if form in (None, "polygon") or not isinstance(points, list):
        return made
    ring = _ring(points, where)
    if form == "rectangle" and len(ring) == 2:
        (left, top), (right, bottom) = ring
        ring = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    elif form == "circle" and len(ring) == 2:
        angles = np.linspace(0, 2 * np.pi, CIRCLE, endpoint=False)
        ring = ring[0] + np.hypot(*(ring[1] - ring[0])) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif form != "rectangle":
        return Object(made.label, (), odd=f"an object is a {form}, which has no area, and is read as nothing")
    return Object(made.label, ((ring,),))


def _label(each: Mapping[str, Any]) -> str:
    own = each.get("properties") or {}
    for about in (each, own):
        for key in CLASS_KEYS:
            if key in about and not (key == "type" and about[key] in GEOMETRIES):
                return str(about[key])
    # QuPath writes what it found as {"name": ..., "color": ...}
    return next((str(found["name"]) for found in own.values() if isinstance(found, Mapping) and "name" in found), "")


def _outline(label: str, points: Any, is_geometry: bool, where: str) -> Object:
    """An object of one outline in any of the ways it may be written."""
    if isinstance(points, Mapping) and "counts" in points:
        polygons, size = _runs(points, where)
        return Object(label, polygons, size=size)
    if isinstance(points, Mapping):
        return _outline(label, points.get("coordinates") or [], True, where)
    found = _polygons(points or [], is_geometry, where)
    sound = tuple(rings for rings in found if len(rings[0]) > 2)
    if not found:
        return Object(label, (), odd="an object has no outline (an empty list of points), and is read as nothing")
    few = "an outline has fewer than three points, which have no area, and is read as nothing"
    return Object(label, sound, odd=few if len(sound) < len(found) else "")


def _polygons(points: Sequence[Any], is_geometry: bool, where: str) -> list[Polygon]:
    """Of `[x, y, x, y, ...]` or `[[x, y], ...]` one, of a list of either one each; in GeoJSON the first ring of a list
    is the outer one and the others are its holes (RFC 7946, 3.1.6), and a list of such lists is a MultiPolygon."""
    points = [each for each in points if not isinstance(each, Sequence) or len(each)]
    inner, depth = points, 0
    while isinstance(inner, list) and inner:
        inner, depth = inner[0], depth + 1
    polygons = [[each] for each in points]
    if depth == 1 or (depth == 2 and all(len(each) == 2 or (is_geometry and len(each) == 3) for each in points)):
        polygons = [[points]]
    elif depth == 4 or (depth == 3 and is_geometry):
        polygons = points if depth == 4 else [points]
    return [tuple(_ring(ring, where) for ring in rings) for rings in polygons]


def _ring(points: Any, where: str) -> np.ndarray:
    """float64 (points, 2); heights of GeoJSON are left out."""
    try:
        flat = np.asarray(points, dtype=np.float64)
        ring = flat.reshape(-1, 2) if flat.ndim == 1 else flat.reshape(len(flat), -1)[:, :2]
        if ring.shape[1] == 2 and np.isfinite(ring).all():
            return ring
    except (TypeError, ValueError):
        pass
    raise UserError(f"an outline of '{where}' is no list of x and y that are finite numbers; mend the file")


def _runs(mask: Mapping[str, Any], where: str) -> tuple[tuple[Polygon, ...], Size]:
    """The outlines of a mask that COCO holds as run lengths, of which filling gives the same pixels; and its size."""
    height, width = (int(side) for side in mask.get("size", (0, 0)))
    try:
        ends = np.cumsum(rle.counts_of(mask["counts"]))
    except (TypeError, ValueError) as error:
        raise UserError(f"an RLE of '{where}' cannot be read ({error}); mend the file") from error
    if not len(ends) or ends[-1] != height * width:
        has = ends[-1] if len(ends) else 0
        raise UserError(f"an RLE of '{where}' has {has} pixels and a size of {height} x {width}; mend the file")
    runs = ends[: len(ends) // 2 * 2].reshape(-1, 2)
    runs = runs[runs[:, 0] < runs[:, 1]]
    flat = rle.filled(runs[:, 0], runs[:, 1], height * width).view(np.uint8)
    found, tree = cv2.findContours(flat.reshape(width, height).T.copy(), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [ring[:, 0].astype(np.float64) for ring in found]
    parents = tree[0][:, 3].tolist() if len(rings) else []
    holes = {k: [ring for ring, over in zip(rings, parents, strict=True) if over == k] for k in range(len(rings))}
    return tuple((rings[k], *holes[k]) for k, parent in enumerate(parents) if parent < 0), (height, width)


def filled(objects: Sequence[tuple[Polygon, ...]], window: tuple[int, int, int, int]) -> np.ndarray:
    """The union of objects in a window (top, left, height, width), with the pixels on outlines, uint8 (h, w)."""
    top, left, height, width = window
    plane = np.zeros((height, width), np.uint8)
    for polygon in (polygon for polygons in objects for polygon in polygons if plane.size):
        rings = [np.rint(np.clip(ring - (left, top), -FAR, FAR)).astype(np.int32) for ring in polygon]
        cv2.fillPoly(plane, rings, 1)
    return plane


def has_inner(polygons: tuple[Polygon, ...]) -> bool:
    """Whether one of the polygons lies within another one."""
    outer = [polygon[0].astype(np.float32) for polygon in polygons]
    boxes = [(ring.min(axis=0), ring.max(axis=0)) for ring in outer]
    return any(
        (low > least).all() and (high < most).all() and cv2.pointPolygonTest(around, ring[0].tolist(), False) > 0
        for ring, (low, high) in zip(outer, boxes, strict=True)
        for around, (least, most) in zip(outer, boxes, strict=True)
    )
