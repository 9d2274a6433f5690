"""What may stand in the cells of a submission of masks, judged as the grader will read it."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.submission_schema import Keys, Problem
from pipeline.tasks.segmentation.forms import EMPTY, RunLengths
from pipeline.tasks.segmentation.submission import Layout, Written, layout
from toolkit.errors import UserError, listed
from toolkit.masks import rle
from toolkit.masks.sizes import Size, known_size

ANY_SIZE = (1 << 30, 1 << 30)  # stands for a size that is not known
NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class MaskRules:
    """The rules of one competition's submission.

    Attributes:
        asked: what the sample is made of.
        form: how masks are written.
        head: what is predicted.
        sizes: of the test images, by id, as far as they are known.
        read: how training masks are read, where they are RLE.
    """

    asked: Layout
    form: Written
    head: Head
    sizes: Mapping[str, Size] = field(default_factory=dict)
    read: RunLengths | None = None

    @property
    def id_column(self) -> str:
        return self.asked.id_column

    @property
    def keys(self) -> Keys:
        return self.asked.keys

    def described(self) -> list[str]:
        """What each column holds."""
        size = "the image's size" if self.form.size is None else "{} x {} pixels".format(*self.form.size)
        what = f"RLE at {size}, {_way(self.form)}"
        rows = ", a row for each object" if self.asked.objects else ""
        return [f"{name}: {what}{rows}" for name in self.asked.cells]

    def notes(self) -> list[str]:
        """What stands for an empty mask, where it is something, and that masks are written as they are not read."""
        notes = [f"an empty mask is written '{self.asked.empty}'"] if self.asked.empty else []
        if self.read is not None and _way(self.read) != _way(self.form):
            notes.append(
                f"RLE is read {_way(self.read)} (TRUTH in src/competition/targets.py) and written {_way(self.form)} "
                "(FORM in submission.py); competitions seldom mean that"
            )
        return notes

    def problems(self, table: pd.DataFrame) -> list[Problem]:
        """What is wrong with the masks of `table` (all text; columns may be missing)."""
        if not {*self.keys.columns, *self.asked.cells} <= set(table.columns):
            return []
        cells = list(self.asked.sorted_out(table))
        found: dict[tuple[str, bool], list[tuple[str, str]]] = {}
        for name, of_class, text in cells:
            if text.strip().lower() in EMPTY:
                continue
            size = self.form.size or self.sizes.get(name, ANY_SIZE)
            wrong = rle.fault(text, size, self.form.first)
            what = wrong or rle.check(text, size, self.form.first)
            if what:
                found.setdefault((NUMBER.sub("#", what), not wrong), []).append((self._row(name, of_class), what))
        problems = [
            Problem(
                "mask", f"{len(rows)} of {len(cells)} masks ({listed(row for row, _ in rows)}): {rows[0][1]}", warning
            )
            for (_, warning), rows in found.items()
        ]
        return [*problems, *self._other_empty(cells), *([] if problems else self._shared(cells))]

    def _row(self, name: str, of_class: str) -> str:
        return f"{name}{self.asked.mark or ' '}{of_class}" if len(self.head.classes) > 1 else name

    def _other_empty(self, cells: Sequence[tuple[str, str, str]]) -> Iterator[Problem]:
        """Empty masks that are not written as the sample writes them."""
        other = [name for name, _, text in cells if text.strip().lower() in EMPTY and text != self.asked.empty]
        if other:
            what = f"'{self.asked.empty}'" if self.asked.empty else "nothing"
            yield Problem(
                "mask",
                f"{len(other)} empty masks ({listed(other)}) are not written as the sample does it; write {what}",
                warning=True,
            )

    def _shared(self, cells: Sequence[tuple[str, str, str]]) -> Iterator[Problem]:
        """Images in which a pixel has two classes, where each has one; or belongs to two objects."""
        if self.head.kind != "multiclass_mask" and not self.asked.objects:
            return
        by_image: dict[str, list[str]] = {}
        for name, _, text in cells:
            if text.strip().lower() not in EMPTY:
                by_image.setdefault(name, []).append(text)
        shared = [name for name, texts in by_image.items() if len(texts) > 1 and _overlap(texts, self.form.first)]
        if shared:
            what = "two objects" if self.asked.objects else "two classes"
            yield Problem(
                "mask",
                f"in {len(shared)} images ({listed(shared)}) masks overlap; a pixel cannot belong to {what}",
                warning=not self.asked.objects,
            )


def _way(form: Written | RunLengths) -> str:
    return f"{'down the columns' if form.order == 'column' else 'along the rows'}, first pixel {form.first}"


def _overlap(texts: Sequence[str], first: int) -> bool:
    """Whether a pixel is in two of the masks, each of which is right by itself."""
    runs = [rle.runs(text, ANY_SIZE, first) for text in texts]
    starts, ends = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    order = np.argsort(starts, kind="stable")
    return bool((starts[order][1:] < np.maximum.accumulate(ends[order])[:-1]).any())


def submission_rules(
    sample: pd.DataFrame,
    heads: Sequence[Head],
    id_column: str,
    form: Written | None = None,
    images: Mapping[str, Path] | None = None,
    read: RunLengths | None = None,
) -> MaskRules:
    """The rules for this sample.

    Args:
        images: the image of each test id; one that is missing or unreadable has no size.
        read: how training masks are read, where they are RLE.

    Raises:
        UserError: the sample is not recognised.
    """
    form = form or Written()
    return MaskRules(layout(sample, heads, id_column, form), form, heads[0], _sizes(images or {}), read)


def _sizes(images: Mapping[str, Path]) -> dict[str, Size]:
    found = {}
    for name, path in images.items():
        with contextlib.suppress(UserError):
            found[name] = known_size(path)
    return found
