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
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from pipeline.competition import rank
from pipeline.tasks import Task
from toolkit.errors import UserError

UNFITTED = ("mean", "geometric")
METHODS = ("mean", "geometric", "rank", "hill", "nnls", "stack", "lightgbm")  # of those as good, the first is taken
STEPS, PATIENCE = 25, 8  # of a climb, and of these how many in a row may gain nothing
MOST_COLUMNS = 500  # of all members: more are stacked only where that is asked for
LEAST = 1e-6  # a probability whose logarithm is taken
Tables = Sequence[pd.DataFrame]


@dataclass(frozen=True)
class Fitted:
    """A way to join, with what was fitted for it, in arrays or in lists as JSON has them: by head the weights of the
    members, (members,), and models, one for all columns or one for each label (`_model`); of `rank`, their known
    predictions in order, (members, N, columns)."""

    method: str
    weights: Mapping[str, Any]
    models: Mapping[str, Any] = field(default_factory=dict)


def require_joinable(task: Task, method: str) -> None:
    """Raise a `UserError` where the method cannot join what a head predicts."""
    known = {columns.head.name: columns for columns in task.predictions.columns}
    for head in task.heads:
        if not _joins(method, known.get(head.name)):
            what = f"'{method}' cannot join what '{head.name}' ({head.kind}) predicts"
            raise UserError(f"{what}; choose of {', '.join(applicable(task))}")


def applicable(task: Task) -> list[str]:
    """The methods that can join what every head predicts."""
    return [name for name in METHODS if all(_joins(name, each) for each in task.predictions.columns or [None])]


def _joins(method: str, columns: Any) -> bool:
    answers = "" if columns is None else columns.answers
    if method == "rank":  # of several classes, those of one would say nothing of the others
        return answers == "labels" or (answers == "class" and len(columns.names) == 2)
    return method in ("mean", "hill") or (answers != "" and (method, answers) != ("geometric", "number"))


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
            name, wanted = columns.head.name, columns.targets(truth)
            values, known = np.stack([table[columns.names].to_numpy(np.float64) for table in tables]), ~np.isnan(wanted)
            if method == "rank":
                models[name] = np.sort(values, axis=1)
            elif method == "nnls":
                found = LinearRegression(positive=True, fit_intercept=False).fit(values[:, known].T, wanted[known])
                weights[name] = found.coef_ if found.coef_.any() else weights[name]
            else:
                features = enumerate(_features(method, columns, values, side))
                models[name] = [_model(method, columns.answers, x, wanted, k) for k, x in features]
    return Fitted(method, weights, models)


def join(fitted: Fitted, task: Task, tables: Tables, side: np.ndarray) -> pd.DataFrame:
    """The members' predictions of any rows, in the same order, as one table."""
    every = task.predictions.columns
    if not every or not all(columns.answers for columns in every):
        counts = fitted.weights[task.heads[0].name]  # of a mean or a climb: whole numbers
        taken = [found for found, count in zip(tables, counts, strict=True) for _ in range(int(count))]
        return task.predictions.average(taken)
    parts: dict[str, np.ndarray] = {}
    for columns in every:
        name, values = columns.head.name, np.stack([table[columns.names].to_numpy(np.float64) for table in tables])
        share = fitted.weights[name] / np.sum(fitted.weights[name])
        if fitted.method in ("stack", "lightgbm"):
            made = _predicted(columns, fitted.models[name], _features(fitted.method, columns, values, side))
        elif fitted.method == "geometric":
            logits = np.tensordot(share, _logits(columns, values), 1)
            made = 1 / (1 + np.exp(-logits)) if columns.answers == "labels" else _softmax(logits)
        else:
            if fitted.method == "rank":
                values = _ranks(values, np.asarray(fitted.models[name]))
            made = np.tensordot(share, values, 1)
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


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _features(method: str, columns: Any, values: np.ndarray, side: np.ndarray) -> list[np.ndarray]:
    """What a head's models read, (N, features) each: of all columns, or for each label those of the label."""
    found = _logits(columns, values).transpose(1, 0, 2)  # (N, members, columns)
    labels = columns.answers == "labels"
    parts = [found[:, :, c] for c in range(found.shape[2])] if labels else [found.reshape(len(found), -1)]
    return [np.hstack([part, side]) for part in parts] if method == "lightgbm" else parts


def _model(method: str, answers: str, features: np.ndarray, wanted: np.ndarray, number: int) -> dict[str, Any]:
    """A fitted model of a head, or of a label by its number: the classes that it knows (0 of a number), and LightGBM's
    own text or a linear model of standardised features; nothing more where all rows are of one class."""
    known, is_number = ~np.isnan(wanted[:, number]), answers == "number"
    features, wanted = features[known], wanted[known]
    truth = wanted.argmax(axis=1) if answers == "class" else wanted[:, number].astype(float if is_number else int)
    classes = np.zeros(1, int) if is_number else np.unique(truth)
    if len(classes) == 1 and not is_number:
        return {"classes": classes}
    if method == "lightgbm":
        kind = _lightgbm().LGBMRegressor if is_number else _lightgbm().LGBMClassifier
        trees = kind(n_estimators=200, learning_rate=0.05, num_leaves=15, random_state=0, verbose=-1)
        return {"classes": classes, "trees": trees.fit(features, truth).booster_.model_to_string()}
    scaler = StandardScaler().fit(features)
    made = (Ridge() if is_number else LogisticRegression(max_iter=1000)).fit(scaler.transform(features), truth)
    slopes, intercepts = np.atleast_2d(made.coef_), np.atleast_1d(made.intercept_)
    if len(classes) == 2:  # of which scikit-learn keeps the second one's
        slopes, intercepts = np.vstack([0 * slopes, slopes]), np.append(0, intercepts)
    linear = {"mean": scaler.mean_, "scale": scaler.scale_, "slopes": slopes, "intercepts": intercepts}
    return {"classes": classes} | linear


def _lightgbm() -> Any:
    try:
        return importlib.import_module("lightgbm")
    except ImportError as error:
        remedy = "uv pip install lightgbm, and write it into the group `competition` of pyproject.toml"
        raise UserError(f"the method 'lightgbm' needs a package that is not installed: {remedy}") from error


def _predicted(columns: Any, models: Sequence[Any], features: Sequence[np.ndarray]) -> np.ndarray:
    """What the models of a head predict, float64 (N, columns)."""
    parts, labels = [], columns.answers == "labels"
    for model, read in zip(models, features, strict=True):
        found = np.ones((len(read), 1))
        if "trees" in model:
            found = np.reshape(_lightgbm().Booster(model_str=model["trees"]).predict(read), (len(read), -1))
            found = np.hstack([1 - found, found]) if len(model["classes"]) == 2 else found
        elif "slopes" in model:
            found = (read - model["mean"]) / model["scale"] @ np.transpose(model["slopes"]) + model["intercepts"]
            found = found if columns.answers == "number" else _softmax(found)
        each = np.zeros((len(read), 2 if labels else len(columns.names)))
        each[:, model["classes"]] = found
        parts.append(each[:, 1:] if labels else each)
    return np.hstack(parts)
