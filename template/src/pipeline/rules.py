"""What a submission has to be, between the two who know: a room knows the values, `pipeline.kaggle` knows the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a submission.

    Attributes:
        kind: what sort of thing, in a word or two.
        text: one line: how many, examples, and the remedy.
        warning: it may be meant so, and does not stop a submission.
    """

    kind: str
    text: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Rules(Protocol):
    """What a room knows about a submission: which column is the id, and what may stand in the others."""

    @property
    def id_column(self) -> str: ...

    def described(self) -> list[str]:
        """What each column holds, in a few words; empty when that is not known."""
        ...

    def notes(self) -> list[str]:
        """What is worth knowing about the sample, one line each."""
        ...

    def problems(self, table: "pd.DataFrame") -> list[Problem]:
        """What is wrong with the values. `table` is all text, as it stands in the file; columns may be missing."""
        ...


def sample_id_column(columns: Sequence[str], id_column: str) -> str:
    """The id column of a sample submission: the one that `competition.yaml` names, else the first one.

    Samples often call the id by another name than the training table does.
    """
    return id_column if id_column in columns else columns[0]
