"""How the members of an ensemble are joined best: every method by what it makes of rows it was not fitted to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from pipeline.competition import rank
from pipeline.inference.joining import UNFITTED, Tables, candidates, fit, join, require_joinable
from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID
from pipeline.tasks import Task
from toolkit.terminal import progress, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEST = "best"
PARTS = 5  # of the rows of a single validation split


class MethodSearch:
    """The scores of members and methods, float64 (parts,) each: of a part of the rows, with what was fitted (and
    thresholds that were tuned) on the others.

    Attributes:
        method: the one that was asked for, or of `best` the one whose mean is best.
        fits: by method, what is fitted to all rows; its score on them is in `fitted`.
        table: the out-of-fold predictions of the method.
        gains: by how much the score is worse without a member.
    """

    def __init__(
        self, task: Task, members: Sequence[str], tables: Tables, rows: pd.DataFrame, side: np.ndarray, method: str
    ) -> None:
        self.task, self.members, self.tables, self.side = task, list(members), tables, side
        self.metric, self.folds = task.competition.metrics()[0], rows[ROW_FOLD].to_numpy()
        self.truth, self.parts = task.predictions.truth(rows).loc[tables[0].index], parts_of(rows)
        if method != BEST:
            require_joinable(task, method)
        names = candidates(task, len(tables)) if method == BEST else [method]
        joined = {name: self.joined(name, tables) for name in progress(names, "joining")}
        self.alone = {name: self.scores(found) for name, found in zip(members, tables, strict=True)}
        self.nested = {name: self.scores(found) for name, found in joined.items()}
        self.method = max(names, key=lambda name: self.order(self.nested[name]))
        self.table = joined[self.method]
        self.fits = {name: fit(name, task, tables, self.truth, side) for name in names}
        self.fitted = {name: self.scores(join(made, task, tables, side), False) for name, made in self.fits.items()}
        without = {name: [*tables[:k], *tables[k + 1 :]] for k, name in enumerate(members)}
        self.gains = {
            name: self.lead(self.nested[self.method], self.scores(self.joined(self.method, without[name])))
            for name in progress(self.members, "leaving one out")
        }

    def order(self, scores: np.ndarray) -> float:
        """What scores are compared by, the better one greater."""
        return rank(float(np.mean(scores)), 0, self.metric.greater_is_better)[0]

    def lead(self, scores: np.ndarray, than: np.ndarray) -> np.ndarray:
        """By how much scores are better, by part."""
        return scores - than if self.metric.greater_is_better else than - scores

    def joined(self, method: str, tables: Tables) -> pd.DataFrame:
        """The rows of each part, joined by what was fitted to the others."""
        if method in UNFITTED:
            return join(fit(method, self.task, tables, self.truth, self.side), self.task, tables, self.side)
        found = []
        for part in np.unique(self.parts):
            rows = self.parts == part
            others = [each[~rows] for each in tables]
            made = fit(method, self.task, others, self.truth[~rows], self.side[~rows])
            found.append(join(made, self.task, [each[rows] for each in tables], self.side[rows]))
        return pd.concat(found).loc[self.truth.index]

    def scores(self, found: pd.DataFrame, nested: bool = True) -> np.ndarray:
        """The leaderboard's metric by part, with thresholds tuned on the others; not `nested`, on all rows."""
        tuner = self.task.predictions.tuner(self.truth, found, self.metric, quick=True)
        scores = []
        for part in np.unique(self.parts):
            rows = self.parts == part
            heads = self.task.heads if tuner is None else tuner(~rows | np.array(not nested))
            scores.append(float(self.metric.function(self.truth[rows], found[rows], heads)))
        return np.array(scores)

    def optimism(self) -> float:
        """By how much the score on the rows that the method was fitted to and chosen by is too good: over that of the
        method which is best on the other parts, on each part."""
        every = np.array(list(self.nested.values()))  # (methods, parts)
        found = []
        for part in range(every.shape[1]):
            others = np.delete(every, part, axis=1)
            found.append(every[max(range(len(every)), key=lambda k: self.order(others[k])), part])
        return float(self.lead(self.fitted[self.method], np.array(found)).mean())

    def as_json(self) -> dict[str, Any]:
        """What `ensemble.json` holds of it: by head the share of each member, none where models weigh them, and
        scores, whose gains are greater than 0 where something is better."""
        fitted, weights = self.fits[self.method], {}
        for head, values in fitted.weights.items() if not set(fitted.models) or self.method == "rank" else ():
            weights[head] = dict(zip(self.members, map(float, values / values.sum()), strict=True))
        alone, gains = self.alone, self.gains
        members = {name: {"alone": float(alone[name].mean()), "gain": float(gains[name].mean())} for name in alone}
        methods = {}
        for name, scores in self.nested.items():
            methods[name] = {"nested": float(scores.mean()), "spread": float(scores.std())}
            methods[name]["fitted"] = float(self.fitted[name].mean())
        best = max(alone, key=lambda name: self.order(alone[name]))
        lead = self.lead(self.nested[self.method], alone[best])
        error = float(lead.std(ddof=1) / np.sqrt(len(lead)))
        found = {"methods": methods, "members": members, "best_member": best, "gain": float(lead.mean())}
        found |= {"gain_error": error, "optimism": self.optimism()}
        return {"method": self.method, "weights": weights, "scores": found}

    def print_scores(self, name: str) -> None:
        """Tables of the methods and of the members, and what the ensemble gains."""
        made, metric, parts = self.as_json(), self.metric.name, len(np.unique(self.parts))
        scores, weights = made["scores"], made["weights"]
        rows = [("*" if key == self.method else "", key, *each.values()) for key, each in scores["methods"].items()]
        title = f"{name}: {metric}, nested: on each of {parts} parts by what was fitted to the others"
        table(title, ("", "method", "nested", "spread", "on what it was fitted to"), rows)
        heads = [f"weight: {head}" if len(weights) > 1 else "weight" for head in weights]
        shares = {key: [each[key] for each in weights.values()] for key in self.members}
        rows = [(key, *each.values(), *shares[key]) for key, each in scores["members"].items()]
        table(f"{name}: members", ("", "alone", "gain by it", *heads), rows)
        best, gain = scores["best_member"], scores["gain"]
        print(f"'{self.method}' gains {gain:+.4f} ± {scores['gain_error']:.4f} in {metric} over '{best}' alone")
        if gain <= 0:
            print(f"note: '{best}' alone is as good; nothing is won by joining these")
        optimism = f"optimism: {scores['optimism']:.4f}"
        print(f"{optimism}, by which the score on what it was fitted to and chosen by is too good")

    def figures(self) -> "dict[str, Figure]":
        """How alike the members' predictions are, and what members and methods score."""
        from toolkit.plots.ensembles import correlation_figure, gains_figure

        values = [self.task.predictions.as_numbers(found) for found in self.tables]
        return {
            "correlation": correlation_figure(correlations(values), self.members),
            "gains": gains_figure(self.alone, self.nested, self.gains, self.method, self.metric.name),
        }


def parts_of(rows: pd.DataFrame) -> np.ndarray:
    """The part of each row, (N,): its fold; of a single validation split one of five, groups undivided."""
    folds = rows[ROW_FOLD].to_numpy()
    if len(np.unique(folds)) > 1:
        return folds
    groups = rows[ROW_GROUP if ROW_GROUP in rows and rows[ROW_GROUP].nunique() > 1 else ROW_ID].astype(str)
    splitter, parts = GroupKFold(min(PARTS, groups.nunique())), np.zeros(len(rows), int)
    for part, (_, held_out) in enumerate(splitter.split(rows, groups=groups)):
        parts[held_out] = part
    return parts


def correlations(values: Sequence[np.ndarray]) -> np.ndarray:
    """Pearson's correlation of predictions (N, K) of several models, (models, models): of how far each is from the mean
    of its column, in units of that column's spread over all models."""
    spread = np.std(np.concatenate(values), axis=0)
    apart = [((each - each.mean(axis=0)) / np.where(spread > 0, spread, 1)).ravel() for each in values]
    return np.atleast_2d(np.corrcoef(apart))
