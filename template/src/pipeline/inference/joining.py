"""Ways to join the predictions of several models, and what each of them makes of rows it was not fitted to.

`mean` averages, and so does `hill`, each member as often as hill climbing with replacement took it (R. Caruana et al.,
"Ensemble selection from libraries of models", ICML 2004). `geometric` averages logarithms of probabilities, `rank` the
share of the known predictions that are smaller. `nnls` weighs by non-negative least squares; `stack` is a logistic or
ridge model on the members' predictions, `lightgbm` boosted trees on them and on the side columns.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.competition import rank
from pipeline.tasks import Task
from toolkit.errors import UserError

UNFITTED = ("mean", "geometric")
LINEAR = ("nnls", "stack", "lightgbm")  # what joins numbers as well
METHODS = ("mean", "geometric", "rank", "hill", "nnls", "stack", "lightgbm")  # of those as good, the first is taken
STEPS, PATIENCE = 25, 8  # of a climb, and of these how many in a row may gain nothing
MOST_COLUMNS = 500  # of all members: more are stacked only where that is asked for
LEAST = 1e-6  # a probability whose logarithm is taken
Tables = Sequence[pd.DataFrame]


@dataclass(frozen=True)
class Fitted:
    """A way to join, with what was fitted for it: by head the weights of the members, (members,), and models, one for
    all columns or one for each label; of `rank`, their known predictions in order, (members, N, columns)."""

    method: str
    weights: Mapping[str, np.ndarray]
    models: Mapping[str, Any] = field(default_factory=dict)


def require_joinable(task: Task, method: str) -> None:
    """Raise a `UserError` where the method cannot join what a head predicts."""
    known = {columns.head.name: columns for columns in task.predictions.columns}
    head = next((head for head in task.heads if not _joins(method, known.get(head.name))), None)
    if head is not None:
        what = f"'{method}' cannot join what '{head.name}' ({head.kind}) predicts"
        raise UserError(f"{what}; choose of {', '.join(applicable(task))}")


def applicable(task: Task) -> list[str]:
    """The methods that can join what every head predicts."""
    return [name for name in METHODS if all(_joins(name, each) for each in task.predictions.columns or [None])]


def _joins(method: str, columns: Any) -> bool:
    answers = "" if columns is None else columns.answers
    if method == "rank":  # of several classes, those of one would say nothing of the others
        return answers == "labels" or (answers == "class" and len(columns.names) == 2)
    return method in ("mean", "hill") or answers in ("class", "labels") or (answers == "number" and method in LINEAR)


def candidates(task: Task, members: int) -> list[str]:
    """The methods of which the best is looked for: all that are quick."""
    columns = task.predictions.columns
    if not columns or not all(each.answers for each in columns):
        return ["mean"]  # to score maps, and to put rankings together, takes too long for a climb
    wide = members * sum(len(each.names) for each in columns) > MOST_COLUMNS
    return [name for name in applicable(task) if name != "lightgbm" and not (wide and name == "stack")]


def fit(method: str, task: Task, tables: Tables, truth: pd.DataFrame, side: np.ndarray) -> Fitted:
    """Fit a way to join the members' predictions of rows, `tables`, to their truth, in the same order; `side` are the
    side columns, float32 (N, inputs)."""
    weights = {head.name: np.ones(len(tables)) for head in task.heads}
    models: dict[str, Any] = {}
    if method == "hill":
        metric = task.competition.metrics()[0]

        def score(counts: np.ndarray) -> float:
            joined = join(Fitted("hill", dict.fromkeys(weights, counts)), task, tables, side)
            return rank(metric.function(truth, joined, task.heads), 0, metric.greater_is_better)[0]

        weights = dict.fromkeys(weights, climb(score, len(tables)))
    elif method not in UNFITTED:
        for columns in task.predictions.columns:
            name, values, wanted = columns.head.name, _stacked(columns, tables), columns.targets(truth)
            known = ~np.isnan(wanted)
            if method == "rank":
                models[name] = np.sort(values, axis=1)
            elif method == "nnls":
                found = LinearRegression(positive=True, fit_intercept=False).fit(values[:, known].T, wanted[known])
                weights[name] = found.coef_ if found.coef_.any() else weights[name]
            else:
                features = _features(columns, values, side if method == "lightgbm" else side[:, :0])
                models[name] = [_model(method, columns, x, wanted, k) for k, x in enumerate(features)]
    return Fitted(method, weights, models)


def join(fitted: Fitted, task: Task, tables: Tables, side: np.ndarray) -> pd.DataFrame:
    """The members' predictions of any rows, in the same order, as one table."""
    every = task.predictions.columns
    if not every or not all(columns.answers for columns in every):
        counts = fitted.weights[task.heads[0].name].astype(int)  # of a mean or a climb: whole numbers
        taken = [found for found, count in zip(tables, counts, strict=True) for _ in range(count)]
        return task.predictions.average(taken)
    parts: dict[str, np.ndarray] = {}
    for columns in every:
        name, values = columns.head.name, _stacked(columns, tables)
        share = fitted.weights[name] / fitted.weights[name].sum()
        if fitted.method in ("stack", "lightgbm"):
            features = _features(columns, values, side if fitted.method == "lightgbm" else side[:, :0])
            made = _predicted(columns, fitted.models[name], features)
        elif fitted.method == "geometric":
            made = _probabilities(columns, np.tensordot(share, _logits(columns, values), 1))
        else:
            made = np.tensordot(share, _ranks(values, fitted.models[name]) if fitted.method == "rank" else values, 1)
        parts |= dict(zip(columns.names, made.astype(np.float32).T, strict=True))
    return pd.DataFrame(parts, index=tables[0].index)[list(tables[0])]


def climb(score: Callable[[np.ndarray], float], members: int) -> np.ndarray:
    """How often each member is taken, float64 (members,): one after the other, whichever makes the mean of all that
    were taken so far score best (greater is better), and the best of these means; ties go to who was taken less."""
    counts, best, reached = np.zeros(members), np.ones(members), -np.inf
    for _ in range(STEPS):
        scores = [score(counts + one) for one in np.eye(members)]
        taken = max(range(members), key=lambda k: (scores[k], -counts[k]))
        counts = counts + np.eye(members)[taken]
        if scores[taken] > reached:
            best, reached = counts, scores[taken]
        elif counts.sum() >= best.sum() + PATIENCE:
            break
    return best


def _stacked(columns: Any, tables: Tables) -> np.ndarray:
    """Predictions of a head, float64 (members, N, columns)."""
    return np.stack([table[columns.names].to_numpy(np.float64) for table in tables])


def _ranks(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The share of the `known` values (members, K, columns), in order, that each is above, (members, N, columns);
    among themselves it is (rank - 1/2) / K."""
    found = np.empty_like(values)
    for k, c in np.ndindex(values.shape[0], values.shape[2]):
        sides = (np.searchsorted(known[k, :, c], values[k, :, c], side) for side in ("left", "right"))
        found[k, :, c] = sum(sides) / (2 * known.shape[1])
    return found


def _logits(columns: Any, values: np.ndarray) -> np.ndarray:
    """Probabilities on the scale of logits; numbers stay."""
    if columns.answers == "number":
        return values
    inside = np.clip(values, LEAST, 1 - LEAST)
    return np.log(inside / (1 - inside)) if columns.answers == "labels" else np.log(inside)


def _probabilities(columns: Any, logits: np.ndarray) -> np.ndarray:
    """The way back: those of classes sum to 1."""
    if columns.answers == "labels":
        return np.asarray(1 / (1 + np.exp(-logits)))
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _features(columns: Any, values: np.ndarray, side: np.ndarray) -> list[np.ndarray]:
    """What a head's models read, (N, features) each: of all columns, or for each label those of the label."""
    found = _logits(columns, values).transpose(1, 0, 2)  # (N, members, columns)
    labels = columns.answers == "labels"
    parts = [found[:, :, c] for c in range(found.shape[2])] if labels else [found.reshape(len(found), -1)]
    return [np.hstack([part, side]) for part in parts]


def _model(method: str, columns: Any, features: np.ndarray, wanted: np.ndarray, number: int) -> Any:
    """A fitted model of a head: of its classes, of a label by its number, or of a number."""
    one = wanted[:, number] if columns.answers == "labels" else wanted.argmax(axis=1)
    answers = wanted[:, 0] if columns.answers == "number" else one
    known = ~np.isnan(wanted[:, number])
    features, answers = features[known], answers[known]
    if columns.answers != "number" and len(np.unique(answers)) < 2:
        return DummyClassifier().fit(features, answers.astype(int))
    if method == "lightgbm":
        made = _lightgbm("LGBMRegressor" if columns.answers == "number" else "LGBMClassifier")
    else:
        made = make_pipeline(
            StandardScaler(), Ridge() if columns.answers == "number" else LogisticRegression(max_iter=1000)
        )
    return made.fit(features, answers if columns.answers == "number" else answers.astype(int))


def _lightgbm(name: str) -> Any:
    try:
        found = getattr(importlib.import_module("lightgbm"), name)
    except ImportError as error:
        remedy = "uv pip install lightgbm, and write it into the group `competition` of pyproject.toml"
        raise UserError(f"the method 'lightgbm' needs a package that is not installed: {remedy}") from error
    return found(n_estimators=200, learning_rate=0.05, num_leaves=15, random_state=0, verbose=-1)


def _predicted(columns: Any, models: Sequence[Any], features: Sequence[np.ndarray]) -> np.ndarray:
    """What the models of a head say, float64 (N, columns)."""
    if columns.answers == "number":
        return np.asarray(models[0].predict(features[0]))[:, None]
    parts = []
    for model, read in zip(models, features, strict=True):
        found = np.zeros((len(read), 2 if columns.answers == "labels" else len(columns.names)))
        found[:, model.classes_] = model.predict_proba(read)
        parts.append(found[:, 1:] if columns.answers == "labels" else found)
    return np.hstack(parts)
