"""Which labels rows hold, and how their columns are divided into folds.

Rows have one column per label (0 or 1), or one column, named like the head, that lists the labels that hold; an empty
cell lists none. What divides them, see `label_lists`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

from pipeline.competition import Head
from pipeline.data.faults import Fault
from pipeline.data.labels import ClassLabels
from pipeline.data.spellings import FALSE, TRUE, loose
from pipeline.heads.label_lists import SPACES, ListForm, form_of, read_list
from pipeline.keys import ROW_ID
from toolkit.errors import UserError, listed, nearest

NUMBERS = {"true": "1", "false": "0", "yes": "1", "no": "0"}


@dataclass(frozen=True)
class LabelSets(ClassLabels):
    """The target columns of rows with several labels each: one column per label, or a single one that lists them.

    Attributes:
        separator: what divides the labels of a list; "": what the cells themselves show.
    """

    separator: str = ""

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Every label in a column, one entry each, with the index of its row; missing where a number is missing."""
        if len(self.targets) > 1:
            return _flags(rows[column])
        words: pd.Series = rows[column].fillna("").astype(str).map(self._form(rows).read).explode().dropna()
        return words

    def faults(self, rows: pd.DataFrame) -> Iterator[Fault]:
        """Cells of a label that are neither 0 nor 1; a note that says what divides lists where that is not spaces."""
        if len(self.targets) > 1:
            for column in [column for column in self.targets if column in rows]:
                try:
                    numbers(rows, [column])
                except UserError as error:
                    yield Fault("labels", column, str(error))
            return
        [column] = self.targets
        form = self._form(rows) if column in rows else SPACES
        if not self.separator and form != SPACES:
            detail = (
                f"its lists of labels are read as {form}; if that is wrong, say what divides them in "
                "src/competition/targets.py: LabelSets(settings.target_columns, separator=...)"
            )
            yield Fault("labels", column, detail, fatal=False)

    def _form(self, rows: pd.DataFrame) -> ListForm:
        return ListForm(self.separator) if self.separator else form_of(rows[self.targets[0]].dropna().astype(str))

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        """int64 (N, labels + 1): which labels hold, and whether none does; notes, one line each."""
        names = self._names(rows)
        held = self._held(rows, names)
        rare = [name for name, count in zip(names, held.sum(axis=0), strict=True) if count < n_folds]
        note = f"{len(rare)} of {len(names)} labels have fewer rows than there are folds ({listed(rare)})"
        # A row without any label is a stratum as well, and the splitter asks for two columns at least.
        return np.column_stack([held, ~held.any(axis=1)]).astype(np.int64), [note] if rare else []

    def splitter(self, n_folds: int, seed: int, grouped: bool) -> Any:
        """Divides rows so that each label is as frequent in every fold (Sechidis et al., ECML PKDD 2011)."""
        return (
            GroupedFolds(n_folds, seed)
            if grouped
            else MultilabelStratifiedKFold(n_folds, shuffle=True, random_state=seed)
        )

    def _names(self, rows: pd.DataFrame) -> list[str]:
        if len(self.targets) > 1:
            return list(self.targets)
        return sorted(set(self.cells(rows, self.targets[0])))

    def _held(self, rows: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
        name = self.targets[0] if len(self.targets) == 1 else "labels"
        head = Head(name, "multilabel", tuple(names), separator=self.separator)
        return hard_targets(rows, head) >= 0.5


def _flags(cells: pd.Series) -> pd.Series:
    """Cells of one label. Where 0 and 1 stand in several spellings (1, 1.0, True), they become `0` and `1`."""
    words = cells.dropna().astype(str)
    plain = words.map(lambda text: "1" if loose(text) in TRUE else "0" if loose(text) in FALSE else text)
    mixed = plain.nunique() < words.nunique()
    return plain.reindex(cells.index) if mixed else cells


@dataclass(frozen=True)
class GroupedFolds:
    """Groups divided like rows: a group has every label that one of its rows has."""

    n_folds: int
    seed: int

    def split(self, _: Any, strata: np.ndarray, groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions that train and positions that are held out, for each fold."""
        held = np.zeros((groups.max() + 1, strata.shape[1]), np.int64)
        np.maximum.at(held, groups, strata)
        for _, chosen in MultilabelStratifiedKFold(self.n_folds, shuffle=True, random_state=self.seed).split(
            held, held
        ):
            inside = np.isin(groups, chosen)
            yield np.flatnonzero(~inside), np.flatnonzero(inside)


def hard_targets(rows: pd.DataFrame, head: Head) -> np.ndarray:
    """Whether each label holds, float32 (N, labels) from 0 to 1, from the label columns or the lists; NaN where the
    cell of a label is empty.

    Raises:
        UserError: a cell that is no number from 0 to 1, or an unknown label in a list; the rows are named by id.
    """
    if set(head.classes) <= set(rows.columns):
        return numbers(rows, head.classes)
    known = set(head.classes)
    words = rows[head.name].fillna("").astype(str).map(lambda cell: read_list(cell, known, head.separator))
    unknown = rows[ROW_ID][words.map(lambda found: not set(found) <= set(head.classes))]
    if len(unknown):
        label = next(word for word in words.loc[unknown.index[0]] if word not in head.classes)
        raise UserError(
            f"column '{head.name}': {len(unknown)} rows (id {listed(unknown)}) have labels that are not in "
            f"folds/classes.json, such as '{label}'; {nearest(label, head.classes)}"
        )
    return np.array([[name in found for name in head.classes] for found in words], np.float32).reshape(
        len(rows), len(head.classes)
    )


def numbers(rows: pd.DataFrame, columns: list[str] | tuple[str, ...]) -> np.ndarray:
    """The cells of some columns, float32 (N, columns), each from 0 to 1, or NaN where it is empty."""
    found = np.empty((len(rows), len(columns)), np.float32)
    for place, column in enumerate(columns):
        cells = rows[column].astype(str).str.strip().str.lower().replace(NUMBERS)
        values = pd.to_numeric(cells, errors="coerce")
        wrong = ~values.between(0, 1) & rows[column].notna()
        if wrong.any():
            cell = str(rows.loc[wrong, column].iloc[0])
            raise UserError(
                f"column '{column}': {int(wrong.sum())} rows (id {listed(rows.loc[wrong, ROW_ID])}) hold '{cell}', and "
                "0 or 1 is expected; correct it in src/competition/tables.py"
            )
        found[:, place] = values
    return found
