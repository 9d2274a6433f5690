"""Connected components of masks, by their runs: memory grows with the outlines of a mask, not with its area."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from toolkit.masks import rle
from toolkit.masks.maps import Size, strips


@dataclass(frozen=True, eq=False)
class Components:
    """The connected components of a mask."""

    size: Size
    starts: np.ndarray  # flat positions, row by row, of the runs of its pixels, int64 (R,); none reaches over two rows
    ends: np.ndarray
    labels: np.ndarray  # the component of each run, int32 (R,), from 0 on
    areas: np.ndarray  # pixels of each component, int64 (N,)

    @classmethod
    def of(cls, mask: np.ndarray, neighbours: int, value: bool = True) -> "Components":
        """Those of a mask, bool (H, W), by 4 or 8 neighbours; with `value` False of the pixels that are not in it."""
        starts, ends = _runs(mask, value)
        width, reach = mask.shape[1] + 2, int(neighbours == 8)  # two columns beside the image keep rows apart
        head = starts + 2 * (starts // max(mask.shape[1], 1))
        tail = head + ends - starts
        first = np.searchsorted(tail, head + width - reach, side="right")
        last = np.maximum(np.searchsorted(head, tail + width + reach, side="left"), first)
        pointers = np.concatenate([[0], np.cumsum(last - first)])
        below = np.arange(pointers[-1]) - np.repeat(pointers[:-1] - first, last - first)
        shape = (len(starts), len(starts))
        count, labels = connected_components(csr_matrix((np.ones(len(below), bool), below, pointers), shape), False)
        areas = np.bincount(labels, ends - starts, count).astype(np.int64)
        return cls((mask.shape[0], mask.shape[1]), starts, ends, labels, areas)

    def at_border(self) -> np.ndarray:
        """Whether each component has a pixel at the border of the image, bool (N,)."""
        height, width = self.size
        touches = (self.starts % width == 0) | (self.ends % width == 0)
        touches |= (self.starts < width) | (self.starts >= (height - 1) * width)
        return np.bincount(self.labels[touches], minlength=len(self.areas)) > 0

    def counted(self, positions: np.ndarray) -> np.ndarray:
        """How many of these flat positions, int64 (P,), lie in each component, int64 (N,)."""
        run = np.searchsorted(self.starts, positions, side="right") - 1
        inside = (run >= 0) & (positions < self.ends[run])
        return np.bincount(self.labels[run[inside]], minlength=len(self.areas))

    def masks(self) -> Iterator[np.ndarray]:
        """The mask of each component alone, bool (H, W)."""
        return (self.mask(np.arange(len(self.areas)) == number) for number in range(len(self.areas)))

    def mask(self, selected: np.ndarray) -> np.ndarray:
        """The mask, bool (H, W), of the components that are selected, bool (N,)."""
        runs = selected[self.labels]
        return rle.filled(self.starts[runs], self.ends[runs], self.size[0] * self.size[1]).reshape(self.size)


def _runs(mask: np.ndarray, value: bool) -> tuple[np.ndarray, np.ndarray]:
    """Flat starts and ends of the runs in each row, int64 (R,)."""
    width = mask.shape[1]
    found = [np.zeros((2, 0), np.int64)]
    for rows in strips((mask.shape[0], width)):
        part = np.zeros((rows.stop - rows.start, width + 1), np.uint8)
        np.equal(mask[rows], value, out=part[:, :width].view(bool))
        edges = rle.edges(part.ravel()).reshape(-1, 2)
        found.append((edges - edges[:, :1] // (width + 1) + rows.start * width).T)
    starts, ends = np.concatenate(found, axis=1)
    return starts, ends
