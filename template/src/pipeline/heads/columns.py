"""What a head's predictions are as columns of a table, and what follows from it whatever its kind: averages,
thresholds, pictures, label errors and the columns of a submission, which are judged as text, as the grader reads them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.cells import number_problems
from pipeline.keys import ROW_ID
from pipeline.submission_schema import Problem
from toolkit.errors import UserError, listed, nearest

# (predictions of images, the prediction id of each (N,)) -> a row for each id, in the order in which they come
Aggregate = Callable[[pd.DataFrame, np.ndarray], pd.DataFrame]
Figures = dict[str, Any]  # a `Drawing` by name; matplotlib takes a second to import


@dataclass(frozen=True)
class Column:
    """What one column of a sample holds: the probability of class `of`, or the decision where that is none. `shown` is
    what the sample's own cells hold, each once."""

    name: str
    head: Head
    of: str | None = None
    shown: tuple[str, ...] = ()


class Columns(ABC):
    """The columns of one head's predictions."""

    # probabilities of classes of which one is true, or of labels, or a number; "": what is not numbers alone
    answers: ClassVar[Literal["class", "labels", "number", ""]] = ""

    def __init__(self, head: Head) -> None:
        self.head = head

    @property
    def names(self) -> list[str]:
        """Their names, in order: those of the classes, unless said otherwise."""
        return probability_columns(self.head)

    @property
    def classes(self) -> Sequence[str]:
        """Those whose probabilities can be told."""
        return self.head.classes

    def table(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """What a kind's `decode` says, (N, columns), as columns (N,) by name."""
        return dict(zip(self.names, values.T, strict=True))

    def targets(self, truth: pd.DataFrame) -> np.ndarray:
        """What its columns should hold, float64 (N, columns), NaN where that is not known; only with `answers`."""
        return truth[self.names].to_numpy(np.float64)

    def average(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Several models' predictions, these columns only, as one."""
        mean = np.mean([table.to_numpy(np.float64) for table in tables], axis=0).astype(np.float32)
        return pd.DataFrame(mean, index=tables[0].index, columns=tables[0].columns)

    def aggregate(self, predictions: pd.DataFrame, ids: np.ndarray, function: Aggregate) -> pd.DataFrame:
        """Predictions of images, these columns only, as one for each of `ids` (N,), in their order; a `UserError` where
        the experiment's aggregate, `function`, returned something else."""
        index = pd.Index(pd.unique(ids))
        found = function(predictions.astype(np.float64), ids)
        if list(found.index) != list(index) or list(found) != list(predictions):
            raise UserError(
                f"the experiment's aggregate returned {len(found)} rows with the columns {listed(found)}; expected is "
                f"one for each of {len(index)} prediction ids, in their order, with {listed(predictions)}"
            )
        # pandas leaves NaN out of a mean, and a prediction that failed must not look like one that did not
        failed = ids[predictions.isna().any(axis=1).to_numpy()]
        return found[~found.index.isin(failed)].reindex(index).astype(np.float32)

    def pseudo_labels(self, predictions: pd.DataFrame, above: float, soft: bool) -> pd.DataFrame:
        """See `Predictions.pseudo_labels`."""
        raise UserError(f"head '{self.head.name}' is of the kind '{self.head.kind}', which makes no pseudo labels")

    @property
    def default_thresholds(self) -> tuple[float, ...]:
        """Where predictions become decisions as long as nothing was tuned; empty where there is nothing to tune."""
        return ()

    def thresholded(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        """What each threshold cuts, float64 (N,) each."""
        return [predictions[column].to_numpy(np.float64) for column in self.names]

    @abstractmethod
    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth and prediction of each row as a person reads them, (N,) of str, and how sure it is, float (N,)."""

    def caption(self, said: str, sure: float) -> str:
        """A prediction of `read_out` in a few words."""
        return f"{said} ({sure:.0%})"

    @abstractmethod
    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> Figures:
        """Pictures of predictions against the truth, by name. Both tables are indexed by id, in the same order."""

    def sample_figure(
        self, images: Sequence[Any], ids: Sequence[str], truth: pd.DataFrame, predictions: pd.DataFrame
    ) -> Any:
        """A figure of a few images (N,) with truth and prediction; both tables are in their order."""
        from toolkit.plots.samples import sample_figure

        true, predicted, sure = self.read_out(truth, predictions)
        return sample_figure(images, ids, true, predicted, np.where(has_truth(truth, self.head), sure, np.nan))

    def ranked(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By class, whether rows are of it, bool (N,), and its probability, (N,); empty where there are no classes."""
        return {}

    @abstractmethod
    def label_errors(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """See `Figures.label_errors`: a `label_error_table`; every row has a truth."""

    @abstractmethod
    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        """How often each class is decided for: share of rows, indexed by class, in class order. Of numbers, their
        quartiles by name."""

    def single_column(self, metric: Metric) -> str | None:
        """What the one column of a sample holds that stands for the whole head: a class, or (none) the decision."""
        return None

    @abstractmethod
    def described(self, column: Column) -> str:
        """What a column of a sample holds, in a few words."""

    @abstractmethod
    def fill(self, predictions: pd.DataFrame, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
        """The values (N,) of the head's columns in a submission, by name."""

    def read(self, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
        """The way back from `fill`: predictions by column, (N,) each. None where it does not tell them all."""
        if set(columns) != set(self.head.classes):
            return None
        values = [columns[name].to_numpy(np.float32) for name in self.head.classes]
        return dict(zip(self.names, values, strict=True))

    def cell_problems(self, name: str, values: pd.Series, column: Column, metric: Metric) -> list[Problem]:
        """What is wrong with the values (text) of a column, which is called `name` in the file."""
        return number_problems(name, values, probability=True, metric=metric.name)

    def row_problems(self, table: pd.DataFrame, metric: Metric) -> list[Problem]:
        """What is wrong with rows (text) of the numbers that stand for its classes."""
        return []


def probability_columns(head: Head) -> list[str]:
    """The columns of a head with a probability for each class, in class order: `label:0`, `label:1`, ..."""
    return [f"{head.name}:{name}" for name in head.classes]


def has_truth(truth: pd.DataFrame, head: Head) -> np.ndarray:
    """Which rows have a truth for `head`, bool (N,), given the truth of all heads."""
    own = [head.name] if head.name in truth else [name for name in truth if str(name).startswith(f"{head.name}:")]
    return np.asarray(truth[own].notna().all(axis=1), dtype=bool)


def class_numbers(rows: pd.DataFrame, head: Head, needless: np.ndarray | bool = False) -> np.ndarray:
    """The labels of rows, or of the truth, as positions in the head's classes, int64 (N,); -1 for empty cells and the
    unknown. A label that is no class is a `UserError`, save in `needless` rows, bool (N,)."""
    labels = rows[head.name]
    numbers = pd.Index(head.classes).get_indexer(pd.Index(labels)).astype(np.int64)
    if (numbers >= 0).all():
        return numbers
    strange = labels.notna() & ((labels != head.unknown) | (not head.unknown))
    wrong = rows[(numbers < 0) & strange.to_numpy(bool) & ~np.asarray(needless)]
    if len(wrong):
        label, ids = str(wrong[head.name].iloc[0]), listed(wrong.get(ROW_ID, wrong.index))
        raise UserError(
            f"column '{head.name}': {len(wrong)} rows (id {ids}) have the label '{label}', which is not in "
            f"folds/classes.json; {nearest(label, head.classes)}"
        )
    return numbers


def label_error_table(
    index: pd.Index, given: np.ndarray, suggested: np.ndarray, scores: np.ndarray, probabilities: np.ndarray | float
) -> pd.DataFrame:
    """Suspects (M,), their labels, what is suggested instead, and how probable that is, indexed by id."""
    columns = {"given": given, "suggested": suggested, "score": scores, "probability": probabilities}
    return pd.DataFrame(columns, index=index)


def frequencies(labels: np.ndarray, names: Sequence[str]) -> pd.Series:
    """How often each name stands among labels (N,): share of rows, indexed by name."""
    return pd.Series(labels).value_counts(normalize=True).reindex(list(names), fill_value=0.0)
