"""Outlines of objects as json files hold them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError, listed

Object = tuple[str, tuple[np.ndarray, ...]]  # class, rings (points, 2) of x and y
CLASS_KEYS = ("class", "label", "category", "name", "type")
POINT_KEYS = ("points", "polygon", "segmentation", "coordinates", "vertices")
LIST_KEYS = ("shapes", "objects", "annotations", "polygons")


def objects_by_image(content: Any) -> dict[str, list[Object]]:
    """Objects by image id, of a file for all images: COCO, or a mapping from ids to lists of objects. COCO images are
    named by their file without extension.

    Raises:
        UserError: the content is neither.
    """
    if isinstance(content, Mapping) and isinstance(content.get("annotations"), list) and "images" in content:
        names = {image["id"]: Path(str(image["file_name"])).stem for image in content["images"]}
        classes = {each["id"]: str(each["name"]) for each in content.get("categories", [])}
        found: dict[str, list[Object]] = {name: [] for name in names.values()}
        for each in content["annotations"]:
            if each["image_id"] not in names:
                raise UserError(f"an annotation names the image {each['image_id']}, which is not among its images")
            label = classes.get(each.get("category_id"), str(each.get("category_id", "")))
            found[names[each["image_id"]]].append((label, _rings(each["segmentation"])))
        return found
    if isinstance(content, Mapping):
        return {str(name): objects_of(objects) for name, objects in content.items()}
    raise UserError(f"a json file of masks holds a {type(content).__name__}; COCO, or lists of objects by id, are read")


def objects_of(content: Any) -> list[Object]:
    """The objects of one image.

    Raises:
        UserError: the content is no list of objects.
    """
    if isinstance(content, Mapping):
        content = next((content[key] for key in LIST_KEYS if key in content), content)
    if not isinstance(content, list):
        raise UserError(f"a json file of masks holds no list of objects ({listed(content)}); read it in tables.py")
    return [_object(each) for each in content]


def _object(each: Any) -> Object:
    points = next((each[key] for key in POINT_KEYS if key in each), None) if isinstance(each, Mapping) else each
    if points is None:
        raise UserError(f"an object of a json file has the keys {listed(each, 6)} and no '{POINT_KEYS[0]}'")
    label = next((str(each[key]) for key in CLASS_KEYS if key in each), "") if isinstance(each, Mapping) else ""
    return label, _rings(points)


def _rings(points: Any) -> tuple[np.ndarray, ...]:
    """Rings float64 (points, 2) of `[[x, y], ...]`, `[x, y, x, y, ...]`, or a list of either."""
    if isinstance(points, Mapping):
        raise UserError("an object is given as RLE in json; turn it into a column of RLE in src/competition/tables.py")
    try:
        flat = np.asarray(points, dtype=np.float64)
        return (flat.reshape(-1, 2),) if flat.ndim == 1 or (flat.shape[-1] == 2 and flat.ndim == 2) else _each(points)
    except (TypeError, ValueError):
        return _each(points)


def _each(rings: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in rings)
