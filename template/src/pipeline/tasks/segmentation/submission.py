"""How decided masks become the rows of a sample submission, and back."""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.mask_decoding import columns, decoded
from pipeline.tasks.segmentation.forms import Written, is_empty
from pipeline.tasks.segmentation.submission_rules import MaskRules, submission_rules
from toolkit.masks import maps, rle
from toolkit.masks.components import Components


def submission_table(
    sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head], id_column: str, form: Written | None = None
) -> pd.DataFrame:
    """The sample's columns with the RLE of every decided mask: a row per image, image and class, or object.

    Raises:
        UserError: the sample is not recognised, or the predictions lack a column.
    """
    rules, [head] = submission_rules(sample, heads, id_column, form), heads
    lines: list[dict[str, str]] = []
    for name, masks in zip(predictions.index.astype(str), decoded(predictions, head), strict=True):
        texts = {of_class: _texts(mask, rules) for of_class, mask in zip(head.classes, masks, strict=True)}
        if rules.class_column or rules.mark:
            [cell] = rules.cells
            lines += [{**rules.key(name, each), cell: text} for each, own in texts.items() for text in own]
        else:  # a single class, or a column for each of them
            rows = zip(*(texts[of or head.classes[0]] for of in rules.cells.values()), strict=True)
            lines += [{rules.id_column: name, **dict(zip(rules.cells, row, strict=True))} for row in rows]
    return pd.DataFrame(lines, columns=list(rules.columns), dtype="str")


def _texts(mask: np.ndarray, rules: MaskRules) -> list[str]:
    """The RLE of a mask, bool (H, W), or of each of its objects."""
    mask = _resized(mask, rules.form.size or mask.shape)
    if not mask.any():
        return [rules.empty]
    masks = Components.of(mask, 8).masks() if rules.objects else [mask]
    return [rle.encode(one, rules.form.order, rules.form.first) for one in masks]


def _resized(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if mask.shape == size:
        return mask
    return cv2.resize(mask.view(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def as_predictions(table: pd.DataFrame, rules: MaskRules) -> pd.DataFrame | None:
    """A submission as a table of predictions: the way back from `submission_table`. None where a size is not known."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, of_class, text in rules.sorted_out(table):
        own = found.setdefault(name, {each: [] for each in rules.head.classes})
        own[of_class] += [] if is_empty(text) else [text]
    if not set(found) <= set(rules.sizes):
        return None
    form, cells = rules.form, []
    for name, own in found.items():
        size = rules.sizes[name]
        masks = (rle.decode(" ".join(texts), form.size or size, form.order, form.first) for texts in own.values())
        cells.append([maps.encode_mask(_resized(mask, size)) for mask in masks])
    return pd.DataFrame(cells, index=pd.Index(list(found), name="id"), columns=columns(rules.head), dtype=object)
