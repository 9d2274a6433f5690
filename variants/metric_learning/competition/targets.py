"""What is predicted: which identity an image shows."""

from collections.abc import Mapping, Sequence

from pipeline.competition import Head
from pipeline.heads.identities import Identities
from pipeline.settings import Settings
from toolkit.errors import UserError

# What is answered for an identity that no training row shows, such as new_whale. Rows may be labelled so: they are held
# out and scored, and train nothing. "" where every identity is known.
UNKNOWN = ""


def heads(settings: Settings, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    """One head for each target column, with the identities of folds/classes.json."""
    for column in settings.target_columns:
        if column not in classes:
            raise UserError(f"folds/classes.json has no classes for '{column}'; run scripts/make_folds.py")
    return tuple(
        Head(column, "embedding", tuple(classes[column]), unknown=unknown(settings))
        for column in settings.target_columns
    )


def labels(settings: Settings) -> Identities:
    """How the target columns are read. Folds hold out images, of identities that have others in training.

    Where the test images show other identities than the training ones, hold out whole identities; each held-out image
    is then looked for among the others:

        return Identities(settings.target_columns, unknown(settings), hold_out="identities")
    """
    return Identities(settings.target_columns, unknown(settings))


def unknown(settings: Settings) -> str:
    """`UNKNOWN`; the demo competition has a word of its own."""
    return UNKNOWN or ("new_digit" if settings.competition == "digits-demo" else "")
