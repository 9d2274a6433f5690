"""What is wrong with the data, as every check says it, and as it is printed."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from toolkit.errors import UserError, listed
from toolkit.terminal import table

MOST_PRINTED = 20


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    problem: str  # what sort of thing; faults of one sort are shown together
    row: str  # the id of the row, or the file
    detail: str
    fatal: bool = True  # training, predicting or submitting would fail on it or be wrong


def each(problem: str, rows: Iterable[object], detail: str, fatal: bool = True) -> list[Fault]:
    """A fault for each of the rows."""
    return [Fault(problem, str(row), detail, fatal) for row in rows]


def together(problem: str, rows: Collection[object], detail: str, fatal: bool = True) -> list[Fault]:
    """One fault of all the rows, or none where there are none."""
    return [Fault(problem, listed(rows), detail, fatal)] if len(rows) else []


def print_faults(faults: Sequence[Fault]) -> None:
    """Print a table for each sort of fault, with a line for each detail."""
    sorts: dict[tuple[str, bool], dict[str, list[str]]] = {}
    for fault in faults:
        sorts.setdefault((fault.problem, fault.fatal), {}).setdefault(fault.detail, []).append(fault.row)
    for (problem, is_fatal), rows in sorts.items():
        rest = f" (the first {MOST_PRINTED})" if len(rows) > MOST_PRINTED else ""
        title = f"{'' if is_fatal else 'note, '}{problem}: {sum(map(len, rows.values()))}{rest}"
        lines = [(len(names), listed(names), detail) for detail, names in list(rows.items())[:MOST_PRINTED]]
        table(title, ("count", "row", "detail"), lines)


def require_no_fatal(faults: Sequence[Fault]) -> None:
    """Raise a `UserError` that tells the one fatal fault, or counts them."""
    fatal = [fault for fault in faults if fault.fatal]
    remedy = "mend it, or drop the row in src/competition/tables.py"
    for only in fatal if len(fatal) == 1 else ():
        text = only.detail if "; " in only.detail else f"{only.detail}; {remedy}"  # one remedy is enough
        raise UserError(f"a fault in the data ({only.problem}): {only.row}: {text}")
    if fatal:
        counts = Counter(fault.problem for fault in fatal).items()
        names = ", ".join(f"{count} x {problem}" for problem, count in counts)
        raise UserError(f"{len(fatal)} faults in the data ({names}); {remedy}")
