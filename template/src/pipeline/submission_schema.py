"""What a submission has to be: a task knows the values, `pipeline.submission` knows the file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from toolkit.errors import listed

BLANK = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>", "nat"})


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a submission; a `warning` may be meant so, and does not stop it."""

    kind: str
    text: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Keys:
    """What names a row of a submission: the id's column first, then others that are needed."""

    columns: tuple[str, ...]
    repeats: bool = False  # a key may stand in several rows, as many as there are things to say
    rows: Callable[[pd.Series], pd.DataFrame] | None = None  # those of given ids, key columns alone; none: one for each

    def texts(self, table: pd.DataFrame) -> pd.Series:
        """The key of each row as one text."""
        first, *others = self.columns
        texts: pd.Series = table[first].astype(str)
        return texts.str.cat(table[others].astype(str), sep=" / ") if others else texts

    def expected(self, ids: pd.Series, columns: Sequence[str]) -> pd.DataFrame:
        """The rows of a submission for these ids, with empty cells beside the keys."""
        first = ids.reset_index(drop=True).to_frame(self.columns[0])
        rows = first if self.rows is None else self.rows(ids)
        return rows.reindex(columns=list(columns), fill_value="")

    def completed(self, table: pd.DataFrame, sample: pd.DataFrame) -> pd.DataFrame:
        """The table with all columns of the sample: those that nothing predicts are filled by key, in rows that the
        sample does not have with what all of its rows have."""
        cells, texts = sample.set_index(self.texts(sample)), self.texts(table)
        cells = cells[~cells.index.duplicated()]
        for name in [name for name in sample if name not in table]:
            usual = sample[name].iloc[0] if sample[name].nunique() == 1 else ""
            table[name] = cells[name].reindex(texts).fillna(usual).to_numpy(object)
        return table[list(sample)]


class Rules(Protocol):
    """What a task knows about a submission: what names its rows, and what may stand in the other columns."""

    @property
    def id_column(self) -> str: ...

    @property
    def keys(self) -> Keys: ...

    def described(self) -> list[str]:
        """What each column holds, in a few words; empty when that is not known."""

    def notes(self) -> list[str]:
        """What is worth knowing about the sample, one line each."""

    def problems(self, table: pd.DataFrame) -> list[Problem]:
        """What is wrong with the values. `table` is all text, as it stands in the file; columns may be missing."""


@dataclass(frozen=True)
class OwnRules:
    """The rules of a format that no task knows, and that `src/competition/submission.py` builds itself: ids and columns
    are the sample's, and where that has numbers, cells are neither blank nor infinite."""

    id_column: str
    keys: Keys
    numeric: Mapping[str, bool]  # columns without blank cells in the sample -> whether they hold numbers there

    @classmethod
    def of(cls, sample: pd.DataFrame, id_column: str) -> "OwnRules":
        """What a sample (all text) says by itself; its ids may stand in several rows."""
        id_column = sample_id_column(list(sample.columns), id_column)
        keys, cells = Keys((id_column,), bool(sample[id_column].duplicated().any())), sample.drop(columns=id_column)
        full = [name for name in cells if len(sample) and not is_blank(cells[name]).any()]
        numeric = {str(name): bool(pd.to_numeric(cells[name], errors="coerce").notna().all()) for name in full}
        return cls(id_column, keys, numeric)

    def described(self) -> list[str]:
        return []

    def notes(self) -> list[str]:
        return ["the sample is of no known form: ids and columns are checked, and little of the values"]

    def problems(self, table: pd.DataFrame) -> list[Problem]:
        found = []
        for name, numeric in [(name, numeric) for name, numeric in self.numeric.items() if name in table]:
            numbers, blank = pd.to_numeric(table[name], errors="coerce").astype(float), is_blank(table[name])
            for kind, hit, what, warning in (
                ("blank", blank, "are blank or NaN; fill every row", not numeric),
                ("finite", numeric & numbers.abs().eq(float("inf")), "are infinite; look for an overflow", False),
                ("dtype", numeric & numbers.isna() & ~blank, "are text; the sample has numbers there", True),
            ):
                if hit.any():
                    text = (
                        f"{hit.sum()} of {len(table)} values of column '{name}' {what} (id {listed(table.index[hit])})"
                    )
                    found.append(Problem(kind, text, warning))
        return found


def is_blank(values: pd.Series) -> pd.Series:
    """Which cells (text) are blank, or say that a value is missing."""
    return values.str.strip().str.lower().isin(BLANK)


def sample_id_column(columns: Sequence[str], id_column: str) -> str:
    """The id column of a sample submission: the one that `competition.yaml` names, else the first one."""
    return id_column if id_column in columns else columns[0]
