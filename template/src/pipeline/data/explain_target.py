"""What of a model's outputs is explained: a head, or a class of it, that somebody may name in a setting."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.competition import Head
from toolkit.errors import UserError, nearest


@dataclass(frozen=True)
class Explained:
    """What of the outputs for one sample is explained by where the model looked.

    Attributes:
        score: a number with its graph, which is differentiated.
        name: of what is explained, such as a class.
        region: bool (H, W), where the truth lies in the image; none where it has no place.
    """

    score: Tensor
    name: str
    region: Tensor | None = None


def class_to_explain(heads: Sequence[Head], setting: str | None) -> tuple[Head, int | None]:
    """The head of `HEAD` or `HEAD:CLASS`, and the number of the class; the first head where nothing is named."""
    if setting is None:
        return heads[0], None
    known = {head.name: head for head in heads}
    name, _, label = setting.partition(":")
    classes = known[name].classes if name in known else ()
    if name not in known or (label and label not in classes):
        hint = nearest(label, classes) if name in known else nearest(name, known)
        raise UserError(f"watch.explain names the head or class '{setting}'; {hint}")
    return known[name], classes.index(label) if label else None
