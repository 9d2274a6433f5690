"""What is wrong with the data, as every check says it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        problem: what sort of thing; faults of one sort are shown together.
        row: the id of the row, or the file.
        detail: what is wrong with it.
        fatal: training, predicting or submitting would fail on it or be wrong.
    """

    problem: str
    row: str
    detail: str
    fatal: bool = True
