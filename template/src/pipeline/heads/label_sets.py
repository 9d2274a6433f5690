"""Which labels rows hold: what their cells list, and how their columns are divided into folds.

Rows have one column per label (0 or 1), or one column, named like the head, that lists the labels that hold: with
spaces between them, `|`, `;` or `,`, or as Python and json write a list. An empty cell lists none.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

from pipeline.competition import Head
from pipeline.data.faults import Fault
from pipeline.data.labels import ClassLabels
from pipeline.data.spellings import FALSE, TRUE, loose
from pipeline.keys import ROW_ID
from toolkit.errors import UserError, listed, nearest

MARKS = ("|", ";", ",")
BRACKETS = ("[]", "()", "{}")
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
NUMBERS = {"true": "1", "false": "0", "yes": "1", "no": "0"}


@dataclass(frozen=True)
class ListForm:
    """How a cell lists labels.

    Attributes:
        separator: what stands between two of them.
        quote: what stands around each of them.
        brackets: what stands around all of them.
    """

    separator: str = " "
    quote: str = ""
    brackets: str = ""

    def __str__(self) -> str:
        if self.brackets:
            return f"written like {self.write(['a', 'b'])}"
        return "divided by " + (f"'{self.separator.strip()}'" if self.separator.strip() else "spaces")

    def write(self, labels: Sequence[str]) -> str:
        """The cell of these labels."""
        text = self.separator.join(f"{self.quote}{label}{self.quote}" for label in labels)
        return f"{self.brackets[:1]}{text}{self.brackets[1:]}"

    def read(self, cell: str) -> list[str]:
        """The labels of a cell, in their order."""
        text = cell.strip()
        if self.brackets:
            if not _brackets(text):
                return [text] if text else []
            text = text[1:-1]
        if self.quote and QUOTED.search(text):
            return [one or other for one, other in QUOTED.findall(text)]
        return [part.strip() for part in text.split(self.separator.strip() or None) if part.strip()]


SPACES = ListForm()


def form_of(cells: Iterable[str]) -> ListForm:
    """The form in which cells list labels, recognised by what they hold; spaces where nothing speaks for another."""
    texts = list(dict.fromkeys(text for cell in cells if (text := cell.strip())))
    if texts and all(map(_brackets, texts)):
        return _of_brackets(texts)
    words = {word for text in texts for word in text.split()}
    for mark in MARKS:
        listing = [text for text in texts if mark in text]
        parts = [part.strip() for text in texts for part in text.split(mark) if part.strip()]
        # A mark may belong to a label's name. Where it divides, the same parts come again in other cells.
        again = len(set(parts)) <= len(words) or (mark != "," and not any(len(part.split()) > 1 for part in parts))
        if listing and again:
            return ListForm(_around(mark, listing[0]))
    return SPACES


def form_for(cells: Sequence[str], classes: Collection[str], separator: str = "") -> ListForm | None:
    """The form in which a sample submission lists labels; where no cell shows one, that of the separator, if any."""
    shown = [cell for cell in cells if cell.strip() and cell.strip() not in classes]
    for mark in MARKS:
        for cell in shown:
            words = ListForm(mark).read(cell)
            if len(words) > 1 and all(word in classes for word in words):
                return ListForm(_around(mark, cell))
    found = form_of(shown)
    if found != SPACES or any(len(cell.split()) > 1 for cell in shown):
        return found
    return ListForm(separator) if separator else None


def read_list(cell: str, classes: Collection[str], separator: str = "") -> list[str]:
    """The labels of a cell: by the separator, or else in the form of which most words are classes, of equal ones the
    first."""
    if separator:
        return ListForm(separator).read(cell)
    text = cell.strip()
    if text in classes:
        return [text]
    bracketed = [_of_brackets([text])] if _brackets(text) else []
    lists = [form.read(text) for form in (SPACES, *bracketed, *map(ListForm, MARKS))]
    return max(lists, key=lambda words: sum(word in classes for word in words) / len(words) if words else 1)


def _around(mark: str, text: str) -> str:
    """The first such mark of a text with the spaces around it."""
    found = re.search(rf"\s*{re.escape(mark)}\s*", text)
    return found[0] if found else mark


def _brackets(text: str) -> str:
    """The brackets around a text; empty where there are none."""
    return next((pair for pair in BRACKETS if text[:1] == pair[0] and text[-1:] == pair[1]), "")


def _of_brackets(texts: Sequence[str]) -> ListForm:
    """The form of lists in brackets, by the first one that has several labels."""
    text = next((text for text in texts if len(QUOTED.findall(text)) > 1 or "," in text), texts[0])
    inner, brackets = text[1:-1], _brackets(text)
    quoted = list(QUOTED.finditer(inner))
    if quoted:
        between = inner[quoted[0].end() : quoted[1].start()] if len(quoted) > 1 else ", "
        return ListForm(between, quoted[0][0][0], brackets)
    mark = re.search(r"\s*,\s*", inner)
    return ListForm(mark[0] if mark else " " if len(inner.split()) > 1 else ", ", "", brackets)


@dataclass(frozen=True)
class LabelSets(ClassLabels):
    """The target columns of rows with several labels each: one column per label, or a single one that lists them.

    Attributes:
        separator: what divides the labels of a list; "": what the cells themselves show.
    """

    separator: str = ""

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Every label in a column, one entry each, with the index of its row; missing where a number is missing.

        Where 0 and 1 stand in several spellings (1, 1.0, True), they become `0` and `1`.
        """
        if len(self.targets) == 1:
            words: pd.Series = rows[column].fillna("").astype(str).map(self._form(rows).read).explode().dropna()
            return words
        cells = rows[column].dropna().astype(str)
        plain = cells.map(lambda text: "1" if loose(text) in TRUE else "0" if loose(text) in FALSE else text)
        return plain.reindex(rows.index) if plain.nunique() < cells.nunique() else rows[column]

    def faults(self, rows: pd.DataFrame) -> Iterator[Fault]:
        """Cells of a label that are neither 0 nor 1; a note that says what divides lists where that is not spaces."""
        for column in [column for column in self.targets if column in rows]:
            if len(self.targets) > 1:
                try:
                    numbers(rows, [column])
                except UserError as error:
                    yield Fault("labels", column, str(error))
            elif not self.separator and (form := self._form(rows)) != SPACES:
                detail = (
                    f"its lists of labels are read as {form}; if that is wrong, say what divides them in "
                    "src/competition/targets.py: LabelSets(settings.target_columns, separator=...)"
                )
                yield Fault("labels", column, detail, fatal=False)

    def _form(self, rows: pd.DataFrame) -> ListForm:
        return ListForm(self.separator) if self.separator else form_of(rows[self.targets[0]].dropna().astype(str))

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray | None, list[str]]:
        """int64 (N, labels + 1): which labels hold, and whether none does; notes, one line each."""
        several = len(self.targets) > 1
        names = list(self.targets) if several else sorted(set(self.cells(rows, self.targets[0])))
        head = Head("labels" if several else self.targets[0], "multilabel", tuple(names), separator=self.separator)
        held = hard_targets(rows, head) >= 0.5
        rare = [name for name, count in zip(names, held.sum(axis=0), strict=True) if count < n_folds]
        note = f"{len(rare)} of {len(names)} labels have fewer rows than there are folds ({listed(rare)})"
        # A row without any label is a stratum as well, and the splitter asks for two columns at least.
        return np.column_stack([held, ~held.any(axis=1)]).astype(np.int64), [note] if rare else []

    def splitter(self, n_folds: int, seed: int, grouped: bool) -> Any:
        """Divides rows so that each label is as frequent in every fold (Sechidis et al., ECML PKDD 2011)."""
        rows = MultilabelStratifiedKFold(n_folds, shuffle=True, random_state=seed)
        return GroupedFolds(rows) if grouped else rows


@dataclass(frozen=True)
class GroupedFolds:
    """Groups divided like rows: a group has every label that one of its rows has."""

    divide: MultilabelStratifiedKFold

    def split(self, _: Any, strata: np.ndarray, groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions that train and positions that are held out, for each fold."""
        held = np.zeros((groups.max() + 1, strata.shape[1]), np.int64)
        np.maximum.at(held, groups, strata)
        for _, chosen in self.divide.split(held, held):
            inside = np.isin(groups, chosen)
            yield np.flatnonzero(~inside), np.flatnonzero(inside)


def hard_targets(rows: pd.DataFrame, head: Head) -> np.ndarray:
    """Whether each label holds, float32 (N, labels) from 0 to 1, from the label columns or the lists; NaN where the
    cell of a label is empty. A `UserError` names the rows of cells that cannot be read."""
    if set(head.classes) <= set(rows.columns):
        return numbers(rows, head.classes)
    known = set(head.classes)
    words = rows[head.name].fillna("").astype(str).map(lambda cell: read_list(cell, known, head.separator))
    unknown = rows[ROW_ID][words.map(lambda found: not known.issuperset(found))]
    if len(unknown):
        label = next(word for word in words.loc[unknown.index[0]] if word not in known)
        raise UserError(
            f"column '{head.name}': {len(unknown)} rows (id {listed(unknown)}) have labels that are not in "
            f"folds/classes.json, such as '{label}'; {nearest(label, head.classes)}"
        )
    held = np.array([[name in found for name in head.classes] for found in words], np.float32)
    return held.reshape(len(rows), len(head.classes))


def numbers(rows: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """The cells of some columns, float32 (N, columns), each from 0 to 1, or NaN where it is empty; a `UserError` names
    the rows of others."""
    found = np.empty((len(rows), len(columns)), np.float32)
    for place, column in enumerate(columns):
        cells = rows[column].astype(str).str.strip().str.lower().replace(NUMBERS)
        found[:, place] = values = pd.to_numeric(cells, errors="coerce")
        wrong = ~values.between(0, 1) & rows[column].notna()
        if wrong.any():
            raise UserError(
                f"column '{column}': {int(wrong.sum())} rows (id {listed(rows.loc[wrong, ROW_ID])}) hold "
                f"'{rows.loc[wrong, column].iloc[0]}', and 0 or 1 is expected; correct it in src/competition/tables.py"
            )
    return found
