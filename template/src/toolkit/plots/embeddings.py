"""Where embeddings lie: arrays in, a figure out. A notebook can call it as well."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

MOST_NAMED = 10  # classes with a colour of their own
UNKNOWN = "?"  # the name of a class that is not known


def embedding_figure(vectors: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw vectors (N, D) in the plane of their first two principal components, the most frequent of the classes, whose
    names are (N,), in colours."""
    figure = Figure(figsize=(8.5, 6.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{len(names):,} embeddings", fontsize=11, fontweight="bold", loc="left")
    if len(names) < 3:
        return figure
    labels, plane = pd.Series(list(names), dtype="str"), PCA(2, random_state=0).fit(vectors)
    named = labels[labels != UNKNOWN].value_counts().index[:MOST_NAMED]
    table = pd.DataFrame(plane.transform(vectors)).groupby(labels.where(labels.isin(named), "others"))
    for name in ["others", *named]:
        if name in table.groups:
            across, up = table.get_group(name).to_numpy().T
            color, label = "#c4c4c4" if name == "others" else None, name[:30].replace("$", r"\$")
            axes.scatter(across, up, s=12, color=color, label=label)
    first, second = (f"{part:.0%} of the variance" for part in plane.explained_variance_ratio_)
    axes.set(xlabel=first, ylabel=second)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure
