"""A head of this kind: one number."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pipeline.competition import Metric
from pipeline.heads.base import HeadKind
from pipeline.heads.label_errors import suspect_table
from pipeline.heads.regression import submission
from pipeline.heads.regression.layer import Standardized
from pipeline.heads.regression.numbers import clipped, cut_points, grade_names, numbers, predicted
from pipeline.heads.submission_columns import Column
from pipeline.heads.thresholds import values_to_try
from pipeline.keys import ROW_ID
from pipeline.registry import Named
from toolkit.audit.label_errors import LIMIT, modified_z_scores, worst_first


class Regression(HeadKind):
    """The truth is float32 (B, 1), like the output, so that neither is broadcast; NaN where a row has none."""

    submission: ClassVar[Any] = submission

    @property
    def width(self) -> int:
        return 1

    def layer(self, features: int) -> nn.Module:
        return Standardized(features, self.head.name)

    def begin(self, network: nn.Module, rows: pd.DataFrame) -> None:
        for module in network.modules():
            if isinstance(module, Standardized) and module.head == self.head.name:
                module.fit(self.targets(rows))

    @property
    def columns(self) -> list[str]:
        return [self.head.name]

    @property
    def default_loss(self) -> Named:
        return Named(name="mse")

    @property
    def unknown(self) -> float:
        return float("nan")  # it has no classes

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        return numbers(rows, self.head.name).astype(np.float32)[:, None]

    def target_forms(self, size: int) -> Sequence[tuple[torch.dtype, tuple[int, ...]]]:
        return ((torch.float32, (size, 1)),)

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        column = self.head.name
        values = numbers(rows.rename_axis(None).assign(**{ROW_ID: rows.index}), column)
        return pd.DataFrame({column: values}, index=rows.index)

    def decode(self, logits: Tensor) -> np.ndarray:
        return clipped(logits.float().numpy(), self.head)

    def constant(self, rows: pd.DataFrame, metric: Metric) -> np.ndarray:
        """The mean; with `mae` the median, with `rmsle` the mean of the logarithms, which are what those ask for."""
        values = numbers(rows, self.head.name)
        known = values[~np.isnan(values)]
        if metric.name == "mae":
            best = np.median(known)
        elif metric.name == "rmsle" and known.min() > -1:
            best = np.expm1(np.log1p(known).mean())
        else:
            best = known.mean()
        return clipped(np.array([best], np.float32), self.head)

    @property
    def usual_thresholds(self) -> tuple[float, ...]:
        """The cut points between grades."""
        return tuple(cut_points(replace(self.head, thresholds=())).tolist()) if self.head.classes else ()

    def candidates(self, predictions: pd.DataFrame) -> list[np.ndarray]:
        return [values_to_try(predicted(predictions, self.head))] * len(self.usual_thresholds)

    def figures(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, Figure]:
        from pipeline.heads.regression.drawing import by_truth_figure, scatter_figure

        column = self.head.name
        given = truth[column].to_numpy(), predicted(predictions, self.head), column
        return {f"scatter/{column}": scatter_figure(*given), f"errors/{column}": by_truth_figure(*given)}

    def sample_figure(
        self, images: Sequence[Any], ids: Sequence[str], truth: pd.DataFrame, predictions: pd.DataFrame
    ) -> Figure:
        from pipeline.heads.regression.drawing import errors_figure

        return errors_figure(images, ids, truth[self.head.name].to_numpy(), predicted(predictions, self.head))

    def read_out(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers as text; how sure: the nearer to the truth, the surer."""
        true, said = truth[self.head.name].to_numpy(), predicted(predictions, self.head)
        texts = (np.array([f"{value:.4g}" for value in values], dtype=object) for values in (true, said))
        return *texts, -np.abs(said - true)

    def told(self, said: str, sure: float) -> str:
        return said

    def suspects(self, truth: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
        """Residuals that lie far outside of the others."""
        true, said, _ = self.read_out(truth, predictions)
        residuals = predicted(predictions, self.head) - truth[self.head.name].to_numpy(np.float64)
        away = np.abs(modified_z_scores(residuals))
        found, scores = worst_first(away, away > LIMIT)
        return suspect_table(truth.index[found], true[found], said[found], scores, np.full(len(found), np.nan))

    def shares(self, predictions: pd.DataFrame) -> pd.Series:
        """How often each grade is decided for; without grades, the quartiles."""
        values = predicted(predictions, self.head)
        if self.head.classes:
            decided = pd.Series(grade_names(values, self.head))
            return decided.value_counts(normalize=True).reindex(list(self.head.classes), fill_value=0.0)
        names = ("smallest", "lower quartile", "median", "upper quartile", "largest")
        return pd.Series(np.quantile(values, np.linspace(0, 1, len(names))), index=list(names))

    def single_column(self, metric: Metric) -> str | None:
        """The number, under the head's own name; none, for the grade, where the metric is about grades."""
        return None if self.head.classes and metric.needs == "labels" else self.head.name

    def described(self, column: Column) -> str:
        if column.of is None:
            return f"grade of '{self.head.name}', one of {len(self.head.classes)}"
        inside = "" if self.head.limits is None else " from {:g} to {:g}".format(*self.head.limits)
        return f"number of '{self.head.name}'{inside}"


HEAD = Regression
