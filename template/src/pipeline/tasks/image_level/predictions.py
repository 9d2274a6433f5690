"""How a head's predictions stand in a table: one column of probabilities per class, `label:0`, `label:1`, ..."""

from pipeline.competition import Head


def probability_columns(head: Head) -> list[str]:
    """The columns of a head, in class order."""
    return [f"{head.name}:{name}" for name in head.classes]
