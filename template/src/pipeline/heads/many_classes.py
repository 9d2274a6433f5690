"""Probabilities of thousands of classes: the best ones of each row are kept, and how much is left for all others.

A column for each of 15,501 classes would be 186 MB for 3,000 rows, and twice that in float64.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.heads.class_probabilities import ClassProbabilities
from pipeline.heads.columns import Aggregate, Columns, Figures, class_numbers, label_error_table, probability_columns
from toolkit.audit.label_errors import worst_first
from toolkit.errors import UserError

MANY = 2_000  # up to so many classes have a column each
KEPT = 50  # classes of a row otherwise
BLOCK = 128  # rows whose classes are all there at once


class BestClasses(ClassProbabilities):
    """The best classes of a row by name, `label:class_1`, ..., of equally probable ones the first in class order, and
    their probabilities, float32, `label:probability_1`, .... What these leave of 1 is spread evenly over all others."""

    @property
    def names(self) -> list[str]:
        return [f"{self.head.name}:{what}_{place}" for what in ("class", "probability") for place in range(1, KEPT + 1)]

    def table(self, values: np.ndarray) -> dict[str, np.ndarray]:
        best = np.sort(np.argpartition(-values, KEPT, axis=1)[:, :KEPT], axis=1)
        given = np.take_along_axis(values, best, axis=1)
        order = np.argsort(-given, axis=1, kind="stable")
        labels = np.array(self.head.classes, dtype=object)[np.take_along_axis(best, order, axis=1)]
        shares = np.take_along_axis(given, order, axis=1).astype(np.float32)
        return dict(zip(self.names, [*labels.T, *shares.T], strict=True))

    def listed(self, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of the kept classes, int64 (N, KEPT), their probabilities, float64, and that of any other, (N,); a
        `UserError` where the predictions name another class."""
        labels = predictions[self.names[:KEPT]].to_numpy(object)
        numbers = pd.Index(self.head.classes).get_indexer(pd.Index(labels.ravel(), dtype=object)).reshape(labels.shape)
        if (numbers < 0).any():
            strange = labels[numbers < 0][0]
            raise UserError(f"the predictions name '{strange}', no class of '{self.head.name}'; predict again")
        given = predictions[self.names[KEPT:]].to_numpy(np.float64)
        return numbers, given, (1 - given.sum(axis=1)).clip(0) / (len(self.head.classes) - KEPT)

    def dense(self, predictions: pd.DataFrame) -> np.ndarray:
        numbers, given, other = self.listed(predictions)
        values = np.repeat(other[:, None], len(self.head.classes), axis=1)
        np.put_along_axis(values, numbers, given, axis=1)
        return values

    def shares_at(self, numbers: np.ndarray, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Of the classes in these positions, int64 (N,), the places among the kept ones, KEPT for all others, and the
        probabilities of these places, float64 (N, KEPT + 1)."""
        listed, given, other = self.listed(predictions)
        places = np.where(listed == numbers[:, None], np.arange(KEPT), KEPT).min(axis=1)
        return places, np.column_stack([given, other])

    def best(self, predictions: pd.DataFrame, most: int) -> np.ndarray:
        return self.listed(predictions)[0][:, :most]

    def average(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        if len(tables) == 1:
            return tables[0]
        best = []
        for start in range(0, max(len(tables[0]), 1), BLOCK):
            total = self.dense(tables[0].iloc[start : start + BLOCK])
            for table in tables[1:]:
                total += self.dense(table.iloc[start : start + BLOCK])
            best.append(pd.DataFrame(self.table(total / len(tables))))
        return pd.concat(best).set_axis(tables[0].index)

    def aggregate(self, predictions: pd.DataFrame, ids: np.ndarray, function: Aggregate) -> pd.DataFrame:
        rows, index = pd.factorize(ids)
        parts = []
        for start in range(0, max(len(index), 1), BLOCK):
            own = (rows >= start) & (rows < start + BLOCK)
            dense = pd.DataFrame(self.dense(predictions[own]), columns=probability_columns(self.head))
            found = super().aggregate(dense, ids[own], function)
            parts.append(pd.DataFrame(self.table(found.to_numpy()), index=found.index))
        return pd.concat(parts)

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return truth[self.head.name].to_numpy(), self._decided(predictions), self.listed(predictions)[1][:, 0]

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> Figures:
        """The calibration; a matrix or curves of so many classes nobody reads."""
        from toolkit.plots.classes import calibration_figure

        true, said, sure = self.read_out(truth, predictions)
        finite, text = np.isfinite(sure), "probability of the class that is decided for"
        return {f"calibration/{self.head.name}": calibration_figure((true == said)[finite], sure[finite], text)}

    ranked = Columns.ranked

    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """Rows in which another class is more probable than the given one; the score is 1 less the given one's."""
        known = truth[self.head.name].isin(self.head.classes)
        truth, predictions = truth[known], predictions[known]
        given, suggested, sure = self.read_out(truth, predictions)
        places, shares = self.shares_at(class_numbers(truth, self.head), predictions)
        found, scores = worst_first(1 - shares[np.arange(len(given)), places], given != suggested)
        return label_error_table(truth.index[found], given[found], suggested[found], scores, sure[found])
