"""Labels side by side: what is right and wrong about each. Arrays in, figures out; a notebook can call them as well."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from toolkit.plots.figures import RIGHT, WRONG, draw_counts, styled
from toolkit.plots.images import shortened

MOST_LABELS = 40  # of more, the ones with most mistakes are shown
MOST_PAIRS = 12


def label_counts(truth: np.ndarray, said: np.ndarray, labels: tuple[str, ...]) -> tuple[pd.DataFrame, pd.Series]:
    """Count what became of the labels, bool (N, labels): a row per label, those with most mistakes first, of `found`,
    `missed`, `said by mistake`; and how many rows miss a label and are given another one, by (missed, said)."""
    missed, mistaken = truth & ~said, ~truth & said
    names = pd.Index(list(labels), dtype=object)
    counts = {"found": (truth & said).sum(0), "missed": missed.sum(0), "said by mistake": mistaken.sum(0)}
    order = np.argsort(-(counts["missed"] + counts["said by mistake"]), kind="stable")
    together = missed.T.astype(np.float32) @ mistaken.astype(np.float32)  # integers have no fast product
    rows, columns = np.nonzero(together)
    index = pd.MultiIndex.from_arrays([names[rows], names[columns]])
    pairs = pd.Series(together[rows, columns].astype(np.int64), index)
    return pd.DataFrame(counts, names).iloc[order], pairs.sort_values(ascending=False, kind="stable")


@styled
def labels_figure(table: pd.DataFrame, pairs: pd.Series) -> Figure:
    """Draw `label_counts`: the rows of each label, and which is missed where which is said."""
    part, pairs = table.iloc[:MOST_LABELS], pairs.iloc[:MOST_PAIRS]
    figure = Figure(figsize=(12, max(3.2, 1.6 + 0.3 * len(part))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    start = np.zeros(len(part))
    for name, color in zip(part, (RIGHT, WRONG, "#e0b020"), strict=True):
        left.barh(range(len(part)), part[name], left=start, color=color, label=name)
        start += part[name].to_numpy()
    left.set_yticks(range(len(part)), [shortened(name) for name in part.index], fontsize=9)
    left.set_ylim(max(len(part), 4) - 0.4, -0.6)
    some = f", the {len(part)} of {len(table)} labels with most mistakes" if len(part) < len(table) else ""
    left.set_title(f"rows by label{some}")
    names = [f"{shortened(missed, 18)} missed, {shortened(said, 18)} said" for missed, said in pairs.index]
    right.set_title("mistakes in the same row" if names else "no row misses one label for another")
    draw_counts(right, names, pairs.to_numpy(), slots=max(len(part), MOST_PAIRS))
    figure.legend(loc="outside lower left", ncols=3)
    return figure
