"""Labels side by side: how well each is ranked, and what is right and wrong about it. For notebooks as well."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from pipeline.tasks.image_level.drawing import RIGHT, WRONG
from pipeline.tasks.shared.drawing import shortened

TOO_MUCH = "#e0b020"
MOST_LABELS = 40  # of more, the ones that are ranked worst are shown


def labels_figure(
    truth: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], thresholds: np.ndarray
) -> Figure:
    """The area under the ROC curve of each label, worst first, and its rows: found, missed, and said by mistake.

    Args:
        truth: (N, labels) of bool.
        probabilities: (N, labels).
        thresholds: (labels,).
    """
    areas = np.array([_area(truth[:, place], probabilities[:, place]) for place in range(len(labels))])
    shown = np.argsort(np.nan_to_num(areas, nan=2.0), kind="stable")[:MOST_LABELS]
    names = [shortened(labels[place]) for place in shown]
    said = probabilities >= thresholds
    parts = {
        "found": ((truth & said).sum(axis=0)[shown], RIGHT),
        "missed": ((truth & ~said).sum(axis=0)[shown], WRONG),
        "said by mistake": ((~truth & said).sum(axis=0)[shown], TOO_MUCH),
    }
    figure = Figure(figsize=(11, 1.6 + 0.32 * len(shown)), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    bars = left.barh(names, np.nan_to_num(areas[shown]), color="#4a78b0")
    left.bar_label(bars, ["one value only" if np.isnan(area) else f"{area:.3f}" for area in areas[shown]], padding=3)
    left.set(xlim=(0, 1.18), title="area under the ROC curve")
    left.invert_yaxis()
    start = np.zeros(len(shown))
    for name, (counts, color) in parts.items():
        right.barh(names, counts, left=start, color=color, label=name)
        start = start + counts
    at = f"{thresholds[0]:g}" if np.ptp(thresholds) == 0 else "the tuned thresholds"
    right.set(title=f"rows, decided at {at}")
    figure.legend(loc="outside lower right", ncols=3, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _area(truth: np.ndarray, probabilities: np.ndarray) -> float:
    return float(roc_auc_score(truth, probabilities)) if truth.any() and not truth.all() else float("nan")
