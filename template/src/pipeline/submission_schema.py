"""What a submission has to be: a task knows the values, `pipeline.submission` knows the file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pandas as pd


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


def sample_id_column(columns: Sequence[str], id_column: str) -> str:
    """The id column of a sample submission: the one that `competition.yaml` names, else the first one."""
    return id_column if id_column in columns else columns[0]
