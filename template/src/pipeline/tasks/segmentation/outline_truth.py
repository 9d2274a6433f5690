"""What a file of outlines says of each row: which of its images the row is, by its id or by the end of its path, and
where the classes are in it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.tasks.segmentation.truth import PolygonTruth
from toolkit.archives import read_bytes, shown
from toolkit.errors import UserError, listed, nearest
from toolkit.masks.outlines import Outlined, Polygon
from toolkit.masks.sizes import Frame, Size


def read_json(path: Path) -> Any:
    """The content of a json file, also of one in an archive; a `UserError` names what is wrong with it."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise UserError(f"{shown(path)} is not json ({error}); download it again") from error
    except UserError as error:
        raise UserError(re.sub("image", "file", str(error), count=1)) from error


def outline_truth(
    outlined: Outlined | None,
    classes: tuple[str, ...],
    image: Size | Path,
    names: Mapping[str, str],
    frame: Frame | None,
    where: str,
) -> PolygonTruth:
    """The objects of an image by class. A single class needs no name.

    Args:
        outlined: none where the file does not name the image.
        names: class by the name in the file, where they differ.
        where: the row and the file, as errors name them.
    """
    if outlined is None:
        unread = ("the file of outlines does not name the image, which is read as empty",)
        return PolygonTruth(classes, image, ((),) * len(classes), unread=unread, frame=frame)
    sorted_out: list[list[tuple[Polygon, ...]]] = [[] for _ in classes]
    crowds: list[list[tuple[Polygon, ...]]] = [[] for _ in classes]
    for each in outlined.objects:
        known = names.get(each.label, each.label)
        if known not in classes and not (len(classes) == 1 and not each.label):
            raise UserError(
                f"an object of {where} is of the class '{each.label}', which is not in CLASSES of "
                f"src/competition/targets.py; {nearest(each.label, classes)}"
            )
        if each.polygons:
            place = classes.index(known) if known in classes else 0
            (crowds if each.crowd else sorted_out)[place].append(each.polygons)
    return PolygonTruth(
        classes,
        image,
        tuple(map(tuple, sorted_out)),
        crowds=tuple(map(tuple, crowds)) if any(crowds) else (),
        given=outlined.size if isinstance(image, Path) else None,
        unread=tuple(dict.fromkeys(each.odd for each in outlined.objects if each.odd)),
        frame=frame,
    )


def matched(images: Sequence[Outlined], ids: Sequence[str], paths: Sequence[str]) -> list[Outlined | None]:
    """The image in the file that each row is, by its id, or else by as many folders of its path as the file names.

    Raises:
        UserError: several images could be that of a row, or one that of several rows.
    """
    by_stem: dict[str, list[tuple[tuple[str, ...], Outlined]]] = {}
    for image in images:
        by_stem.setdefault(_parts(image.name)[-1], []).append((_parts(image.name), image))
        if image.name not in (_parts(image.name)[-1], "/".join(_parts(image.name))):
            by_stem.setdefault(image.name, []).append(((image.name,), image))
    chosen: list[Outlined | None] = []
    owners: dict[int, tuple[int, int]] = {}  # of an image: the row that is most like it, and how much
    for row, (name, path) in enumerate(zip(ids, paths, strict=True)):
        ways = (_parts(path), _parts(name), (name,))
        found = {id(image): (parts, image) for way in ways for parts, image in by_stem.get(way[-1], [])}
        likeness = {key: max(_alike(parts, way) for way in ways) for key, (parts, _) in found.items()}
        best = [key for key in found if likeness[key] == max(likeness.values())]
        if len(best) > 1:
            names = listed(sorted({found[key][1].name for key in best}))
            raise UserError(
                f"several images of the file of outlines ({names}) could be that of '{name}'; they need names that "
                "differ, with the folder, as their image has it"
            )
        chosen.append(found[best[0]][1] if best else None)
        for key in best:
            other, much = owners.get(key, (row, 0))
            if paths[other] != path and much == likeness[key]:
                raise UserError(
                    f"the outlines of '{found[key][1].name}' could be those of '{ids[other]}' and of '{name}'; the "
                    "file has to name the folder of the image as well"
                )
            if likeness[key] > much:
                owners[key] = row, likeness[key]
    return [
        image if image is None or paths[owners[id(image)][0]] == paths[row] else None
        for row, image in enumerate(chosen)
    ]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and name without its extension."""
    return PurePosixPath(name).with_suffix("").parts if name.strip("/. ") else (name,)


def _alike(parts: tuple[str, ...], others: tuple[str, ...]) -> int:
    """How many parts at the end are the same; one more where all of both are."""
    pairs = zip(reversed(parts), reversed(others), strict=False)
    count = next((k for k, (one, other) in enumerate(pairs) if one != other), min(len(parts), len(others)))
    return count + (parts == others)
