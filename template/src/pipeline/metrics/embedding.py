"""Scores of ranked labels, on whole tables.

A score reads the truth, a label in the column `whale`, and the predictions, the best labels with their scores
(`rankings`). Where the head has an answer for unknown identities, it takes part by its threshold.
"""

from functools import partial

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from pipeline.competition import Head, Metric
from pipeline.heads.rankings import listed_labels, ranked, score_columns
from pipeline.metrics import undefined
from pipeline.metrics.scoring import finite_predictions, score


def _tables(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> tuple[np.ndarray, pd.DataFrame] | None:
    """The right labels (N,) of str, and the predictions."""
    given = finite_predictions(truth, predictions, head, [head.name], score_columns(head))
    return None if given is None else (truth[head.name].to_numpy(object), predictions)


def _of_known(truth: pd.DataFrame, predictions: pd.DataFrame, head: Head) -> tuple[np.ndarray, pd.DataFrame] | None:
    found = _tables(truth, predictions, head)
    if found is not None and (found[0] == head.unknown).all():
        undefined(head, "the metric needs a row of a known identity")
        return None
    return found


_score = partial(score, _tables, needs="labels")


def map_at(most: int) -> Metric:
    """Mean over the rows of 1 / rank of the right label, 0 where it is not among the first `most`: the mean average
    precision at k, as in Humpback Whale Identification."""

    def formula(truth: np.ndarray, predictions: pd.DataFrame, head: Head) -> float:
        right = ranked(predictions, head)[0][:, :most] == truth[:, None]
        return float(np.where(right.any(axis=1), 1 / (right.argmax(axis=1) + 1), 0.0).mean())

    return _score(f"map_at_{most}", formula, top_k=most)


def recall_at(most: int) -> Metric:
    """Share of the rows of known identities whose label is among the first `most`. The answer for the unknown takes no
    part in it, nor has the threshold a say."""

    def formula(truth: np.ndarray, predictions: pd.DataFrame, head: Head) -> float:
        known = truth != head.unknown
        labels, _ = listed_labels(predictions, head)
        return float((labels[known, :most] == truth[known, None]).any(axis=1).mean())

    return score(_of_known, f"recall_at_{most}", formula, "labels", top_k=most)


def accuracy(truth: np.ndarray, predictions: pd.DataFrame, head: Head) -> float:
    """Share of the rows whose first label is right."""
    return float((ranked(predictions, head)[0][:, 0] == truth).mean())


def gap(truth: np.ndarray, predictions: pd.DataFrame, head: Head) -> float:
    """Global average precision, or micro-AP: `sum_i P(i) rel(i) / M` over all rows, ranked by the score of their label.

    As in Google Landmark Recognition: M is the number of rows that show a known identity, and those that show none are
    never right. Rows of equal score are ranked as one.
    """
    known = truth != head.unknown
    labels, scores = listed_labels(predictions, head)
    right = known & (labels[:, 0] == truth)
    if not right.any():
        return 0.0
    return float(average_precision_score(right, scores[:, 0]) * right.sum() / known.sum())


SCORES = (
    map_at(5),
    map_at(3),
    map_at(10),
    _score("accuracy", accuracy),
    recall_at(1),
    recall_at(5),
    score(_of_known, "gap", gap, "labels"),
)
