"""How a column of identities is divided into folds, and which identities it holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from pipeline.data.folds import name_option
from pipeline.data.labels import ClassLabels, Spread
from pipeline.keys import ROW_FOLD, ROW_GROUP
from toolkit.errors import UserError, listed


@dataclass(frozen=True)
class Identities(ClassLabels):
    """A column that names who or what an image shows.

    An identity with several rows is in several folds, so that each held-out row has others to be found by. One with a
    single row trains in all folds but one; there it is held out, nothing can know it, and the answer for the unknown is
    the right one (`Embedding.truth`).

    Attributes:
        targets: the column; several are divided by the first.
        unknown: what rows are labelled whose identity nobody knows; they are held out and train nothing. "": none are.
        hold_out: `images`, or `identities` as a whole: then none that is held out was seen, and each of their rows is
            looked for among the others.
    """

    unknown: str = ""
    hold_out: Literal["images", "identities"] = "images"

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        """Every identity in a column with the index of its row; rows of the unknown are left out."""
        labels: pd.Series = rows[column]
        return labels[labels != self.unknown] if self.unknown else labels

    def marked(self, rows: pd.DataFrame) -> pd.DataFrame:
        unit = rows[ROW_GROUP] if ROW_GROUP in rows else pd.Series(rows.index, index=rows.index)
        for column in self.targets:
            rows = rows.assign(**{alone_column(column): unit.groupby(rows[column]).transform("nunique").eq(1)})
            if self.hold_out == "identities":
                rows = rows.assign(**{apart_column(column): True})
        return rows

    def strata(self, rows: pd.DataFrame, n_folds: int) -> tuple[np.ndarray, list[str]]:
        """int64 (N,): the number of each row's identity; a note where some stand alone."""
        labels = rows[self.targets[0]].astype(str)
        numbers, names = pd.factorize(labels, sort=True)
        unknown = labels == self.unknown
        single = names[(np.bincount(numbers) == 1) & (names != self.unknown)]
        if self.hold_out == "identities" and self.unknown:  # nobody knows which of them belong together
            numbers = np.where(unknown, len(names) + np.arange(len(rows)), numbers)
        notes = []
        if len(single):
            count = len(names) - int(unknown.any())
            notes.append(f"{len(single)} of {count} identities have one row ({listed(single)}): unknown where held out")
        if self.unknown and not unknown.any():
            notes.append(
                f"no row is labelled '{self.unknown}', which is what src/competition/targets.py answers for the "
                "unknown (UNKNOWN); write the competition's own word there"
            )
        return numbers.astype(np.int64), notes

    def check_folds(self, rows: pd.DataFrame, where: str) -> None:
        """Refuse folds of the other form, in which held-out rows would be looked for where they cannot be."""
        one_split = rows[ROW_FOLD].max() == 0  # its other side is the rows that only train
        scored = rows if one_split else rows[rows[ROW_FOLD] >= 0]
        for column in self.targets:
            cells = self.cells(scored, column).dropna()
            found = scored.loc[cells.index, ROW_FOLD].groupby(cells)
            spread = found.nunique() > 1
            whole = self.hold_out == "identities"
            if spread.any() if whole else (found.size() > 1).any() and not spread.any():
                what = f"no identity of '{column}' is in several folds"
                if whole:
                    several = listed(spread.index[spread])
                    what = f"{spread.sum()} identities of '{column}' are in several folds ({several})"
                raise UserError(
                    f"{where} does not hold out {self.hold_out}, as labels in src/competition/targets.py says: {what}; "
                    f"make the folds anew (scripts/make_folds.py{name_option(Path(where).stem)} --force), or change "
                    "hold_out back"
                )

    @property
    def trains_each(self) -> bool:
        return self.hold_out == "images"

    def splitter(self, n_folds: int, seed: int, grouped: bool) -> Any:
        """Spreads the rows of each identity over the folds, or keeps them in one."""
        if self.hold_out == "images":
            return StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed) if grouped else Spread(n_folds, seed)
        if grouped:
            raise UserError(
                "folds hold out whole identities (labels in src/competition/targets.py), and groups besides cannot "
                "be kept together; empty group_column in competition.yaml"
            )
        return WholeIdentities(n_folds, seed)


@dataclass(frozen=True)
class WholeIdentities:
    """`GroupKFold` by identity; the seed decides which of equally large ones go where."""

    n_folds: int
    seed: int

    def split(self, _: Any, identities: np.ndarray, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions that train and positions that are held out, for each fold."""
        codes = np.unique(identities, return_inverse=True)[1]
        if (count := codes.max() + 1) < self.n_folds:
            raise UserError(f"{count} identities cannot make {self.n_folds} folds; ask for fewer with --n-folds")
        shuffled = np.random.default_rng(self.seed).permutation(count)[codes]
        yield from GroupKFold(self.n_folds).split(codes, groups=shuffled)


def alone_column(target: str) -> str:
    """The column of rows, of bool, that says whether no other row, or none outside its group, shows its identity."""
    return f"{target}:alone"


def apart_column(target: str) -> str:
    """The column that rows have where folds hold out whole identities."""
    return f"{target}:apart"
