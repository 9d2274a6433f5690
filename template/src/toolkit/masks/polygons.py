"""Objects as unions of polygons, and the pixels in them."""

from collections.abc import Sequence

import cv2
import numpy as np

Polygon = np.ndarray | tuple[np.ndarray, ...]  # a ring, or an outer one and its holes: float (points, 2) of x and y
FAR = 1 << 24  # pixels from the window, beyond which it does not matter where a point lies


def rings_of(polygon: Polygon) -> tuple[np.ndarray, ...]:
    """The outer ring of a polygon, then its holes."""
    return (polygon,) if isinstance(polygon, np.ndarray) else polygon


def filled(objects: Sequence[tuple[Polygon, ...]], window: tuple[int, int, int, int]) -> np.ndarray:
    """The union of objects in a window (top, left, height, width), with the pixels on outlines, uint8 (h, w)."""
    top, left, height, width = window
    plane = np.zeros((height, width), np.uint8)
    for polygon in (polygon for polygons in objects for polygon in polygons if plane.size):
        rings = [np.rint(np.clip(ring - (left, top), -FAR, FAR)).astype(np.int32) for ring in rings_of(polygon)]
        cv2.fillPoly(plane, rings, 1)
    return plane


def has_inner(polygons: tuple[Polygon, ...]) -> bool:
    """Whether one of the polygons lies within another one."""
    outer = [rings_of(polygon)[0].astype(np.float32) for polygon in polygons]
    boxes = [(ring.min(axis=0), ring.max(axis=0)) for ring in outer]
    return any(
        (low > least).all() and (high < most).all() and cv2.pointPolygonTest(around, ring[0].tolist(), False) > 0
        for ring, (low, high) in zip(outer, boxes, strict=True)
        for around, (least, most) in zip(outer, boxes, strict=True)
    )
