"""What predictions score that look at no image: what a model's score is held against."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.competition import metric_values
from pipeline.data.folds import split
from pipeline.keys import ROW_FOLD
from pipeline.tasks import Task

if TYPE_CHECKING:
    import pandas as pd


def constant_scores(task: Task, rows: "pd.DataFrame", folds: Sequence[str]) -> dict[str, dict[str, float]]:
    """What predictions score that are the same for every row: mean over the folds, by name and metric.

    They are made from the rows that train a fold and scored on those that it holds out. All rows at once would not do:
    the folds' constants differ, and a ranking of rows would read the fold from them. Where a model is tuned, so is its
    constant, with the name `NAME, tuned`: its thresholds are those that score best on the rows of the other folds.
    """
    metrics = task.competition.metrics()
    scores: dict[str, list[dict[str, float]]] = {}
    for fold in folds:
        trains, held_out = split(rows, fold)
        others = rows[rows[ROW_FOLD].astype(str).isin(set(folds) - {fold})]
        truth = task.predictions.truth(held_out)
        constants = task.predictions.constants(trains, held_out)
        for name, constant in constants.items():
            scores.setdefault(name, []).append(metric_values(metrics, truth, constant.loc[truth.index], task.heads))
        if len(folds) > 1 and len(constants) == 1:  # several are what thresholds could make of one, as empty and full
            [(name, constant)] = constants.items()
            known = task.predictions.truth(others)
            made = task.predictions.constants(trains, others)[name].loc[known.index]
            tuner = task.predictions.tuner(known, made, metrics[0])
            if tuner is None:
                continue
            heads = tuner(np.ones(len(known), bool))
            found = metric_values(metrics, truth, constant.loc[truth.index], heads)
            scores.setdefault(f"{name}, tuned", []).append(found)
    return {
        name: {metric.name: float(np.mean([each[metric.name] for each in values])) for metric in metrics}
        for name, values in scores.items()
    }
