"""How masks are divided into folds: by the classes that are in an image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.labels import ClassLabels
from pipeline.keys import ROW_ID
from pipeline.tasks.segmentation.checks import mask_faults
from pipeline.tasks.segmentation.submission import mark_of
from pipeline.tasks.segmentation.truth import Truth
from toolkit.errors import UserError


@dataclass(frozen=True)
class MaskLabels(ClassLabels):
    """Columns of `Truth`. Every fold has as many images with each set of classes, those with none among them.

    Attributes:
        classes: as in the head.
    """

    classes: Sequence[str] = ()

    @property
    def fewest_classes(self) -> int:
        """One class: what is not of it is background."""
        return 1

    @property
    def of_whole_images(self) -> bool:
        return False

    def asked(self, ids: pd.Series) -> pd.Series:
        """The ids of images, each once, where a sample has a row per image and class, or per object."""
        mark = mark_of(ids, self.classes)
        return (ids.str.rpartition(mark)[0] if mark else ids).drop_duplicates()

    def faults(self, rows: pd.DataFrame) -> Iterator[Fault]:
        for column in self.targets:
            yield from mask_faults(rows, column)

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """The names of the classes that are in each image, one entry each; no entry for an image with none."""
        entries = [
            (index, name) for index, truth in _truths(rows, column) for name in np.array(truth.classes)[truth.present()]
        ]
        return pd.Series([str(name) for _, name in entries], index=[index for index, _ in entries], dtype="str")

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        sets = {column: [str(truth) for _, truth in _truths(rows, column)] for column in self.targets}
        return self.numbered(rows.assign(**sets), n_folds, pool=True)


def _truths(rows: pd.DataFrame, column: str) -> Sequence[tuple[object, Truth]]:
    """The index and the truth of each row; a `UserError` where it is none."""
    found = list(zip(rows.index, rows[column], strict=True))
    strange = [index for index, truth in found if not isinstance(truth, Truth)]
    if strange:
        raise UserError(
            f"the column '{column}' holds no mask in {len(strange)} training rows (id {rows[ROW_ID][strange[0]]}); "
            "make it with mask_rows in src/competition/tables.py"
        )
    return found
