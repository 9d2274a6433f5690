"""A head, or a class of it, that somebody names in a setting."""

from collections.abc import Sequence

from pipeline.competition import Head
from pipeline.errors import UserError, nearest


def chosen_class(heads: Sequence[Head], chosen: str | None) -> tuple[Head, int | None]:
    """The head of `HEAD` or `HEAD:CLASS`, and the number of the class; the first head where nothing is named.

    Raises:
        UserError: there is no such head or class.
    """
    if chosen is None:
        return heads[0], None
    known = {head.name: head for head in heads}
    name, _, label = chosen.partition(":")
    if name not in known:
        raise UserError(f"watch.explain names the head '{name}'; {nearest(name, known)}")
    head = known[name]
    if label and label not in head.classes:
        raise UserError(f"watch.explain names the class '{label}' of the head '{name}'; {nearest(label, head.classes)}")
    return head, head.classes.index(label) if label else None
