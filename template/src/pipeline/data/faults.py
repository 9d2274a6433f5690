"""What is wrong with the data, as every check says it, and as it is printed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.errors import UserError, listed
from toolkit.terminal import console, table

MOST_SHOWN = 20


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


def print_faults(faults: Sequence[Fault]) -> None:
    """Print a table for each sort of fault, with a line for each detail."""
    for (problem, is_fatal), count in Counter((fault.problem, fault.fatal) for fault in faults).items():
        rows: dict[str, list[str]] = {}
        for fault in faults:
            if (fault.problem, fault.fatal) == (problem, is_fatal):
                rows.setdefault(fault.detail, []).append(fault.row)
        rest = f" (the first {MOST_SHOWN})" if len(rows) > MOST_SHOWN else ""
        console().print(f"{'' if is_fatal else 'note, '}{problem}: {count}{rest}")
        lines = [(len(names), listed(names), detail) for detail, names in list(rows.items())[:MOST_SHOWN]]
        table("", ("count", "row", "detail"), lines)


def require_no_fatal(faults: Sequence[Fault]) -> None:
    """Raise a `UserError` that tells the one fatal fault, or counts them."""
    fatal = [fault for fault in faults if fault.fatal]
    if len(fatal) == 1:
        [only] = fatal
        # One remedy is enough.
        remedy = "" if "; " in only.detail else "; mend it, or drop the row in src/competition/tables.py"
        raise UserError(f"a fault in the data ({only.problem}): {only.row}: {only.detail}{remedy}")
    if fatal:
        names = ", ".join(f"{count} x {problem}" for problem, count in Counter(each.problem for each in fatal).items())
        raise UserError(
            f"{len(fatal)} faults in the data ({names}); mend them, or drop the rows in src/competition/tables.py"
        )
