"""Labelled rows and what several models predict for them, for the tests of what joins them."""

import numpy as np
import pandas as pd
from scipy.special import expit

from pipeline.competition import Competition, Head, Metric
from pipeline.keys import ROW_FOLD, ROW_ID, ROW_IMAGE
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings
from pipeline.tasks import Task, task_for

CLASSES = ("cat", "dog", "owl")
HEADS = {
    "class": Head("animal", "multiclass", CLASSES),
    "two": Head("sick", "multiclass", ("no", "yes")),
    "labels": Head("labels", "multilabel", ("a", "b")),
    "number": Head("age", "regression"),
    "identity": Head("who", "embedding", CLASSES),
}


def task_of(*names: str, metric: str | Metric = "log_loss") -> Task:
    chosen = [find_metric(metric) if isinstance(metric, str) else metric]
    made = Competition(Settings.model_construct(), parts={"metric:metrics": lambda settings: chosen})
    return task_for(made, [HEADS[name] for name in names])


def members(kind: str, count: int = 3, rows: int = 400, seed: int = 0) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Labelled rows in five folds, and what models with independent errors predict for them, the first one best."""
    generator, head = np.random.default_rng(seed), HEADS[kind]
    ids = [f"{number:04d}" for number in range(rows)]
    table = pd.DataFrame({ROW_ID: ids, ROW_IMAGE: ids, ROW_FOLD: np.arange(rows) % 5})
    index, tables = pd.Index(ids, name=ROW_ID, dtype="str"), []
    signal = generator.normal(size=(rows, len(head.classes) or 1))
    if kind == "labels":
        table[list(head.classes)] = (signal > 0).astype(int)
    else:
        table[head.name] = np.array(head.classes)[signal.argmax(axis=1)] if head.classes else signal[:, 0]
    for number in range(count):
        heard = signal + generator.normal(size=signal.shape) * (1 + 0.15 * number)
        values = np.exp(heard) / np.exp(heard).sum(axis=1, keepdims=True)
        values = {"labels": expit(heard), "number": heard}.get(kind, values)
        columns = [f"{head.name}:{name}" for name in head.classes] or [head.name]
        tables.append(pd.DataFrame(values.astype(np.float32), index=index, columns=columns))
    return table, tables
