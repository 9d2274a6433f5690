"""Samples as the model saw them, in pictures and in words."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.data.sample_record import SeenSample
from pipeline.heads.columns import Columns
from toolkit.plots.images import NEUTRAL, RIGHT, WRONG, image_grid, shortened, visible

MOST_HEADS = 3  # whose answers are written at an image

# of a head: its columns, which samples have a truth, bool (N,), and its `read_out`: truth, prediction, sureness, (N,)
ReadOut = tuple[Columns, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def seen_figure(samples: Sequence[SeenSample], read: Sequence[ReadOut], heading: str) -> Figure:
    """Samples (N,) as the model saw them, with their losses, and predictions and truths of the first heads."""
    titles, colors = [], []
    for place, sample in enumerate(samples):
        lines, wrong, judged = [sample.told()], False, False
        for columns, known, true, said, sure in read[:MOST_HEADS]:
            label = f"{shortened(columns.head.name, 10)}: " if len(read) > 1 else ""
            lines.append(label + columns.caption(shortened(said[place], 16), float(sure[place])))
            if not known[place]:
                lines[-1] += ", no truth"
            elif true[place] != said[place]:
                lines[-1] += f"\ntrue: {shortened(true[place], 20)}"
            if known[place] and columns.head.classes:
                wrong, judged = wrong or true[place] != said[place], True
        titles.append("\n".join(lines))
        colors.append(WRONG if wrong else RIGHT if judged else NEUTRAL)
    images = [visible(sample.image) for sample in samples]
    return image_grid(images, [sample.id for sample in samples], titles, colors, heading)


def seen_words(read: Sequence[ReadOut]) -> pd.DataFrame:
    """See `Task.words`; arguments as above."""
    truths, predictions = [], []
    for columns, known, true, said, sure in read:
        label = f"{columns.head.name}: " if len(read) > 1 else ""
        truths.append([label + (str(true[k]) if known[k] else "no truth") for k in range(len(true))])
        predictions.append([label + columns.caption(str(said[k]), float(sure[k])) for k in range(len(said))])
    joined = (["; ".join(each) for each in zip(*lines, strict=True)] for lines in (truths, predictions))
    return pd.DataFrame(dict(zip(("truth", "prediction"), joined, strict=True)))
