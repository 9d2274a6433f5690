"""How a head's predictions stand in a table: the best labels of a row and their scores, best first.

With thousands of classes a column for each would be too much. The columns are `whale:label_1`, `whale:label_2`, ... and
`whale:score_1`, ...: cosines, the largest first. Where there are fewer labels, "" stands with a score of -1.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Head
from pipeline.heads.base import Aggregate

LISTED = 20  # labels in a row
NOTHING, WORST = "", -1.0
USUAL = 0.8  # a best score below it is that of an unknown identity, where thresholds were not tuned


def label_columns(head: Head) -> list[str]:
    """The columns of the labels, best first."""
    return [f"{head.name}:label_{place}" for place in range(1, min(LISTED, len(head.classes)) + 1)]


def score_columns(head: Head) -> list[str]:
    """The columns of their scores."""
    return [f"{head.name}:score_{place}" for place in range(1, min(LISTED, len(head.classes)) + 1)]


def listed_labels(predictions: pd.DataFrame, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N, k) of str, and scores float64 (N, k), as they stand in the table."""
    labels = predictions[label_columns(head)].to_numpy(object)
    return labels, predictions[score_columns(head)].to_numpy(np.float64)


def ranked(predictions: pd.DataFrame, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """The same as an answer: where a head has a name for the unknown, that stands before all scores below the
    threshold, which is its own score; (N, k + 1)."""
    labels, scores = listed_labels(predictions, head)
    if not head.unknown:
        return labels, scores
    limit = threshold(head)
    before = (scores >= limit).sum(axis=1)
    places = np.arange(labels.shape[1] + 1)
    source = np.minimum(places - (places > before[:, None]), labels.shape[1] - 1)
    labels, scores = np.take_along_axis(labels, source, axis=1), np.take_along_axis(scores, source, axis=1)
    labels[np.arange(len(labels)), before] = head.unknown
    scores[np.arange(len(labels)), before] = limit
    return labels, scores


def threshold(head: Head) -> float:
    """The score below which a label ranks behind the unknown."""
    return head.thresholds[0] if head.thresholds else USUAL


def table_of(labels: np.ndarray, scores: np.ndarray, head: Head, index: pd.Index) -> pd.DataFrame:
    """Labels and scores (N, k) as a table of predictions, scores as float32."""
    columns: dict[str, np.ndarray] = dict(zip(label_columns(head), labels.T, strict=True))
    columns |= dict(zip(score_columns(head), scores.astype(np.float32).T, strict=True))
    return pd.DataFrame(columns, index=index)


def averaged(tables: Sequence[pd.DataFrame], head: Head) -> pd.DataFrame:
    """Mean score of each label that any of the tables lists.

    A table that does not list a label gives it the score of its last one, which it cannot exceed.
    """
    pairs = [listed_labels(table, head) for table in tables]
    count, width = pairs[0][0].shape
    floors = np.mean([scores[:, -1] for _, scores in pairs], axis=0)
    found = pd.DataFrame(
        {
            "row": np.tile(np.repeat(np.arange(count), width), len(pairs)),
            "label": np.concatenate([labels.ravel() for labels, _ in pairs]),
            "more": np.concatenate([(scores - scores[:, -1:]).ravel() for _, scores in pairs]) / len(pairs),
        }
    )
    summed = found[found["label"] != NOTHING].groupby(["row", "label"])["more"].sum().reset_index()
    return _best(summed.assign(score=floors[summed["row"]] + summed["more"]), head, tables[0].index)


def aggregated(predictions: pd.DataFrame, ids: np.ndarray, head: Head, function: Aggregate) -> pd.DataFrame:
    """The score of each label that any image of an id (N,) lists, as `function` makes it of its scores by image.

    An image that does not list a label gives it the score of its last one, as in `averaged`.
    """
    labels, scores = listed_labels(predictions, head)
    rows, index = pd.factorize(ids)
    count, width = labels.shape
    images = pd.DataFrame({"row": rows, "image": np.arange(count), "floor": scores[:, -1]})
    said = pd.DataFrame({"image": np.repeat(np.arange(count), width), "label": labels.ravel(), "score": scores.ravel()})
    said = said[said["label"] != NOTHING]
    pairs = said.merge(images, on="image")[["row", "label"]].drop_duplicates()
    whole = pairs.merge(images, on="row").merge(said, on=["image", "label"], how="left")
    whole["score"] = whole["score"].fillna(whole["floor"])
    made = function(whole[["score"]], whole.groupby(["row", "label"], sort=False).ngroup().to_numpy(object))
    return _best(pairs.assign(score=made["score"].to_numpy()), head, pd.Index(index))


def _best(found: pd.DataFrame, head: Head, index: pd.Index) -> pd.DataFrame:
    """The best labels of each row as a table of predictions; `found` has the columns row, label and score."""
    width = len(label_columns(head))
    found = found.sort_values(["row", "score"], ascending=[True, False], kind="stable")
    place = found.groupby("row").cumcount().to_numpy()
    found, place = found[place < width], place[place < width]
    labels, scores = np.full((len(index), width), NOTHING, object), np.full((len(index), width), WORST)
    rows = found["row"].to_numpy()
    labels[rows, place] = found["label"].to_numpy(object)
    scores[rows, place] = found["score"].to_numpy()
    return table_of(labels, scores, head, index)
