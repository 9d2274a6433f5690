"""Rankings: the best labels of a row and their scores, best first.

With thousands of classes a column for each would be too much. The columns are `whale:label_1`, `whale:label_2`, ... and
`whale:score_1`, ...: cosines, the largest first. Where there are fewer labels, "" stands with a score of -1.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads import cells
from pipeline.heads.columns import Aggregate, Column, Columns, Figures, frequencies, label_error_table
from pipeline.submission_schema import Problem, is_blank
from toolkit.audit.label_errors import worst_first

LISTED = 20  # labels in a row
NOTHING, WORST = "", -1.0
USUAL = 0.8  # a best score below it is that of an unknown identity, where thresholds were not tuned
WITH_SCORE = ("gap",)


class Rankings(Columns):
    """Labels and scores. In a submission, a column lists the best ones with spaces between, as many as the metric looks
    at; for `gap` it is the best label and its score."""

    classes = ()

    @property
    def names(self) -> list[str]:
        return [*label_columns(self.head), *score_columns(self.head)]

    def table(self, values: np.ndarray) -> dict[str, np.ndarray]:
        labels, scores = np.hsplit(values, 2)
        return dict(zip(self.names, [*labels.T, *scores.astype(np.float32).T], strict=True))

    def average(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Mean score of each label that any of the tables lists; one that does not list a label gives it the score of
        its last one, which it cannot exceed."""
        if len(tables) == 1:
            return tables[0]
        pairs = [listed_labels(table, self.head) for table in tables]
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
        return self._best(summed.assign(score=floors[summed["row"]] + summed["more"]), tables[0].index)

    def aggregate(self, predictions: pd.DataFrame, ids: np.ndarray, function: Aggregate) -> pd.DataFrame:
        """The score of each label that any image of an id (N,) lists, as `function` makes it of its scores by image;
        an image that does not list a label gives it the score of its last one."""
        labels, scores = listed_labels(predictions, self.head)
        rows, index = pd.factorize(ids)
        count, width = labels.shape
        images = pd.DataFrame({"row": rows, "image": np.arange(count), "floor": scores[:, -1]})
        each = {"image": np.repeat(np.arange(count), width), "label": labels.ravel(), "score": scores.ravel()}
        said = pd.DataFrame(each)[labels.ravel() != NOTHING]
        pairs = said.merge(images, on="image")[["row", "label"]].drop_duplicates()
        whole = pairs.merge(images, on="row").merge(said, on=["image", "label"], how="left")
        whole["score"] = whole["score"].fillna(whole["floor"])
        made = function(whole[["score"]], whole.groupby(["row", "label"], sort=False).ngroup().to_numpy(object))
        return self._best(pairs.assign(score=made["score"].to_numpy()), pd.Index(index))

    def _best(self, found: pd.DataFrame, index: pd.Index) -> pd.DataFrame:
        """The best labels of each row as a table of predictions; `found` has the columns row, label and score."""
        width = len(label_columns(self.head))
        found = found.sort_values(["row", "score"], ascending=[True, False], kind="stable")
        place = found.groupby("row").cumcount().to_numpy()
        found, place = found[place < width], place[place < width]
        labels, scores = np.full((len(index), width), NOTHING, object), np.full((len(index), width), WORST)
        rows = found["row"].to_numpy()
        labels[rows, place] = found["label"].to_numpy(object)
        scores[rows, place] = found["score"].to_numpy()
        return pd.DataFrame(self.table(np.hstack([labels, scores.astype(object)])), index=index)

    @property
    def default_thresholds(self) -> tuple[float, ...]:
        return (USUAL,) if self.head.unknown else ()

    def thresholded(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        return [predictions[score_columns(self.head)[0]].to_numpy(np.float64)]

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best answer and its cosine."""
        labels, scores = ranked(predictions, self.head)
        return truth[self.head.name].to_numpy(object), labels[:, 0], scores[:, 0].clip(min=0)

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> Figures:
        from toolkit.plots.rankings import neighbours_figure, scores_figure

        labels, scores = listed_labels(predictions, self.head)
        true = truth[self.head.name].to_numpy(object)
        hits = labels == true[:, None]
        ranks = np.where(hits.any(axis=1), hits.argmax(axis=1), labels.shape[1])
        known = true != self.head.unknown
        limit = threshold(self.head) if self.head.unknown else None
        own, wrong = (np.where(there & (labels != NOTHING), scores, -np.inf)[known] for there in (hits, ~hits))
        best = (np.where(np.isfinite(part), part, np.nan) for part in (own.max(axis=1), wrong.max(axis=1)))
        return {
            f"scores/{self.head.name}": partial(scores_figure, scores[:, 0], hits[:, 0], known, ranks, limit),
            f"neighbours/{self.head.name}": partial(neighbours_figure, *best),
        }

    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """Rows whose nearest image has another label, by how much nearer it is than the nearest of the given one."""
        given, suggested, sure = self.read_out(truth, predictions)
        labels, cosines = ranked(predictions, self.head)
        is_given = labels == given[:, None]
        own = np.where(is_given.any(axis=1), np.where(is_given, cosines, WORST).max(axis=1), cosines[:, -1])
        found, scores = worst_first(cosines[:, 0] - own, given != suggested)
        return label_error_table(truth.index[found], given[found], suggested[found], scores, sure[found])

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        return frequencies(ranked(predictions, self.head)[0][:, 0], self._known())

    def _known(self) -> list[str]:
        return [*self.head.classes, *([self.head.unknown] if self.head.unknown else [])]

    def described(self, column: Column) -> str:
        return f"labels of '{self.head.name}', the best first, out of {len(self.head.classes)}"

    def fill(self, predictions: pd.DataFrame, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
        """The cells of each column, (N,) of str; a `UserError` where a label in a list holds a space."""
        if metric.top_k > 1 or metric.name in WITH_SCORE:
            cells.listable(self.head)
        if metric.name in WITH_SCORE:
            labels, scores = listed_labels(predictions, self.head)
            lists = [f"{label} {score:.9g}" for label, score in zip(labels[:, 0], scores[:, 0], strict=True)]
        else:
            labels = ranked(predictions, self.head)[0][:, : metric.top_k]
            lists = [" ".join(label for label in row if label != NOTHING) for row in labels]
        return {column.name: np.array(lists, dtype=object) for column in columns}

    def read(self, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
        """Predictions by column, from lists of labels: what stands before the answer for the unknown scores 1, what
        stands behind it -1. Where a label is followed by its score, that is taken."""
        if set(columns) != {None}:
            return None
        answers = columns[None].astype(str).str.split()
        width = len(label_columns(self.head))
        labels, scores = np.full((len(answers), width), NOTHING, object), np.full((len(answers), width), WORST)
        for row, words in enumerate(answers):
            if len(words) == 2 and words[1] not in self._known():
                labels[row, 0], scores[row, 0] = words[0], float(words[1])
                continue
            before = words.index(self.head.unknown) if self.head.unknown in words else width
            told = [word for word in words if word != self.head.unknown][:width]
            labels[row, : len(told)] = told
            scores[row, :before] = 1.0
        return dict(zip(self.names, [*labels.T, *scores.astype(np.float32).T], strict=True))

    def cell_problems(self, name: str, values: pd.Series, column: Column, metric: Metric) -> list[Problem]:
        if metric.name not in WITH_SCORE:
            return cells.list_problems(name, values, self._known(), metric.top_k)
        words = values.str.split()
        broken = words.map(lambda row: len(row) != 2 or bool(cells.as_numbers(pd.Series(row[1:])).isna().any()))
        broken &= ~is_blank(values)
        found = cells.list_problems(name, values.where(broken, words.str[0])[~broken], self._known())
        if broken.any():
            hit, remedy = values[broken], "write both, with a space between"
            text = cells.cell_text(name, hit, len(values), "are not a label and its score", hit, remedy)
            found.append(Problem("label", text))
        return found


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
