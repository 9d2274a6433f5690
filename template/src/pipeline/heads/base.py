"""Kinds of heads, a package each: all that is different between a head of one kind and of another.

A package in this folder is a kind, and its name is what `Head.kind` says. It holds
- `LOSSES`: the losses that train it, name -> "module:attribute";
- `head.HEAD`: its `HeadKind`;
- `pipeline.metrics.<kind>.SCORES`: the scores of one head, by the names that `competition.yaml` may hold.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import heads
from pipeline.competition import Head, Metric
from toolkit.errors import UserError, listed

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from pipeline.heads.submission_columns import Column
    from pipeline.registry import Named
    from pipeline.submission_schema import Problem

# (predictions of images, the prediction id of each (N,)) -> a row for each id, in the order in which they come
Aggregate = Callable[["pd.DataFrame", "np.ndarray"], "pd.DataFrame"]
# (ids of a batch, outputs) -> what is decoded instead of the outputs by that name
Memory = Callable[[Sequence[str], Mapping[str, "Tensor"]], dict[str, "Tensor"]]

KINDS: tuple[str, ...] = tuple(sorted(module.name for module in pkgutil.iter_modules(heads.__path__) if module.ispkg))


class HeadKind(ABC):
    """One head, as its kind sees it."""

    has_gallery: ClassVar[bool] = False  # whether rows are looked up among others
    submission: ClassVar[Any]  # the module whose `fill`, `read` and `cell_problems` are those below, given the head

    def __init__(self, head: Head) -> None:
        self.head = head

    @property
    @abstractmethod
    def width(self) -> int:
        """The number of logits."""

    def layer(self, features: int) -> nn.Module:
        """What makes its logits (B, width) of pooled features (B, features), or several outputs by their keys.

        Keyword-only parameters are settings of an experiment: `model: {params: {head_params: {HEAD: {...}}}}`.
        """
        from torch import nn

        return nn.Linear(features, self.width)

    def begin(self, network: nn.Module, rows: pd.DataFrame) -> None:  # noqa: B027 - most layers have nothing to know
        """Tell its layer in the network, before the first step, what it has to know of the rows that train."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The columns of its predictions, which an average of several models leaves what they are."""

    @property
    @abstractmethod
    def default_loss(self) -> Named:
        """What trains it where an experiment names no loss."""

    @property
    @abstractmethod
    def unknown(self) -> float:
        """The probability of each class for who knows nothing."""

    @abstractmethod
    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        """The truth of each row, (N, ...), as a loss reads it.

        Raises:
            UserError: a row without a truth, or with one that cannot be; rows are named by id.
        """

    @abstractmethod
    def target_forms(self, size: int) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        """What dtype and shape a batch of `size` targets may have."""

    def class_counts(self, rows: pd.DataFrame) -> Tensor | None:
        """How many of the rows are of each class, float64 (classes,); none where rows have no weights by class."""
        return None

    @abstractmethod
    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The truth of labelled rows as the metrics read it; the index stays."""

    @abstractmethod
    def decode(self, logits: Tensor) -> np.ndarray:
        """Logits (N, width) as predictions, float32 (N, columns)."""

    def as_columns(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """What `decode` says, (N, columns), as columns (N,) of a table."""
        return dict(zip(self.columns, values.T, strict=True))

    def average(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Several models' predictions, its columns only, as one."""
        import numpy as np
        import pandas as pd

        mean = np.mean([table.to_numpy(np.float64) for table in tables], axis=0).astype(np.float32)
        return pd.DataFrame(mean, index=tables[0].index, columns=tables[0].columns)

    def aggregate(self, predictions: pd.DataFrame, ids: np.ndarray, function: Aggregate) -> pd.DataFrame:
        """Predictions of images, its columns only, as one for each of `ids` (N,), in the order in which these come.

        Raises:
            UserError: the experiment's aggregate, `function`, returned something else.
        """
        import numpy as np
        import pandas as pd

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

    def in_gallery(self, rows: pd.DataFrame) -> np.ndarray | None:
        """bool (N,): the rows whose images are remembered, to look others up among them; none where nothing is."""
        return None

    def looks_among(self, rows: pd.DataFrame) -> bool:
        """Whether held-out rows are looked up among themselves, since none that trains shows the same."""
        return False

    def remembered(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs that `memory` asks for."""
        return {}

    def memory(self, rows: pd.DataFrame, outputs: Sequence[Mapping[str, Tensor]], own: bool) -> Memory:
        """What looks others up among rows, of whose batches `outputs` were `remembered`; with `own` each of them is
        looked up among the others."""
        return lambda ids, outputs: {}

    @abstractmethod
    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The best prediction that looks at no image, float32 (columns,), given the rows that train; where metrics ask
        for different ones, the best for `metric`."""

    @property
    def usual_thresholds(self) -> tuple[float, ...]:
        """Where predictions become decisions as long as nothing was tuned; empty where there is nothing to tune."""
        return ()

    def candidates(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        """Values worth trying for each threshold."""
        return []

    @abstractmethod
    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        """Pictures of predictions against the truth, by name. Both tables are indexed by id, in the same order."""

    def ranked(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By class, whether rows are of it, bool (N,), and its probability, (N,); empty where there are no classes."""
        return {}

    def sample_figure(
        self, images: Sequence[Any], ids: Sequence[str], truth: pd.DataFrame, predictions: pd.DataFrame
    ) -> Figure:
        """A few images (N,) with truth and prediction; both tables are in their order."""
        import numpy as np

        from pipeline.heads.drawing import sample_figure
        from pipeline.heads.predictions import has_truth

        true, said, sure = self.read_out(truth, predictions)
        return sample_figure(images, ids, true, said, np.where(has_truth(truth, self.head), sure, np.nan))

    @abstractmethod
    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth and prediction of each row as a person reads them, (N,) of str, and how sure it is, float (N,)."""

    def told(self, said: str, sure: float) -> str:
        """A prediction of `read_out` in a few words."""
        return f"{said} ({sure:.0%})"

    @abstractmethod
    def suspects(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """See `Task.suspects`: given, suggested, score and probability, indexed by id; every row has a truth."""

    @abstractmethod
    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        """How often each class is decided for: share of rows, indexed by class, in class order. Of numbers, their
        quartiles by name."""

    @abstractmethod
    def single_column(self, metric: Metric) -> str | None:
        """What the one column of a sample holds that stands for the whole head: a class, or (none) the decision."""

    @abstractmethod
    def described(self, column: Column) -> str:
        """What a column of a sample holds, in a few words."""

    def fill(self, predictions: pd.DataFrame, columns: Sequence[Column], metric: Metric) -> dict[str, np.ndarray]:
        """The values (N,) of its columns in a submission, by name."""
        filled: dict[str, np.ndarray] = self.submission.fill(predictions, self.head, columns, metric)
        return filled

    def read(self, columns: Mapping[str | None, pd.Series]) -> dict[str, np.ndarray] | None:
        """The way back from `fill`: predictions by class, float32 (N,) each. None where it does not tell them all."""
        found: dict[str, np.ndarray] | None = self.submission.read(self.head, columns)
        return found

    def cell_problems(self, name: str, values: pd.Series, column: Column | None, metric: Metric) -> list[Problem]:
        """What is wrong with the values (text) of a column; where none is known, of numbers in a format of the user's
        own."""
        found: list[Problem] = self.submission.cell_problems(name, values, self.head, column, metric)
        return found

    def row_problems(self, table: pd.DataFrame, metric: Metric) -> list[Problem]:
        """What is wrong with rows (text) of the numbers that stand for its classes."""
        return []


def kind_of(head: Head) -> HeadKind:
    """The head as its kind sees it."""
    made: HeadKind = part(head.kind, "head").HEAD(head)
    return made


def part(kind: str, module: str = "") -> Any:
    """A kind's package or a module of it, imported when it is asked for: demo data need no torch.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"there is no kind of heads '{kind}'; known: {listed(KINDS, 9)}")
    if module in ("losses", "metrics"):
        return importlib.import_module(f"pipeline.{module}.{kind}")
    return importlib.import_module(f"{heads.__name__}.{kind}.{module}".rstrip("."))


def losses() -> dict[str, str]:
    """The losses of all kinds, name -> "module:attribute"."""
    return {name: reference for kind in KINDS for name, reference in part(kind).LOSSES.items()}


def trained_by(loss: str) -> list[str]:
    """The kinds that a loss of the room's trains."""
    return [kind for kind in KINDS if loss in part(kind).LOSSES]
