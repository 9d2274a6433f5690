"""What the pipeline receives from a competition: one `Competition`, its heads and its metrics."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pipeline.keys import ROW_SOURCE, ROW_WEIGHT, SOURCE_COMPETITION, output_key, target_key
from pipeline.registry import References, Registry, load
from pipeline.rows import checked, require_groups, with_predictions
from pipeline.settings import Settings
from toolkit.errors import UserError, nearest


@dataclass(frozen=True)
class Head:
    """One thing that is predicted. It wires truth, output, loss, metrics, pictures and out-of-fold columns."""

    name: str  # the column of the truth; also the name in losses, metrics and tables
    kind: str  # what it is, a module of `pipeline.heads.kinds`, or `mask`
    classes: tuple[str, ...] = ()  # in the order of the logits
    limits: tuple[float, float] | None = None  # the smallest and the largest value that a number may take
    decimals: int | None = None  # digits of a number after its point in a submission, -1 for tens
    thresholds: tuple[float, ...] = ()  # tuned out of fold, where predictions become decisions; empty: the usual ones
    unknown: str = ""  # the answer for what training does not know; it is none of the classes
    separator: str = ""  # what divides the labels of a cell that lists several; "": the cells themselves show it
    # view -> pairs of classes that swap under it: `{"hflip": [("left", "right")]}`; empty: none swap under any
    swaps: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict, hash=False)

    @cached_property
    def target_key(self) -> str:
        return target_key(self.name)

    @cached_property
    def output_key(self) -> str:
        return output_key(self.name)


@dataclass(frozen=True)
class Metric:
    """A score on whole tables.

    Attributes:
        function: `(truth, predictions, heads) -> float`; both tables are indexed by id in the same order.
        needs: whether it scores what is decided (labels, grades), or what that is decided by (probabilities, numbers);
            so goes into a one-column submission.
        check_heads: raises a `UserError` where it cannot score such heads; it is called before anything is trained.
        may_cut: it often scores 0 and 1 beyond a threshold higher than probabilities, as pF1 does. So thresholds are
            tuned for it, and where they help, 0 and 1 are handed in.
        top_k: how many labels a cell of the submission may list, the best first.
    """

    name: str
    function: Callable[[pd.DataFrame, pd.DataFrame, Sequence[Head]], float]
    greater_is_better: bool = True
    needs: Literal["labels", "probabilities"] = "labels"
    check_heads: Callable[[Sequence[Head]], None] = lambda heads: None
    may_cut: bool = False
    top_k: int = 1

    def better(self, score: float, than: float) -> bool:
        return score > than if self.greater_is_better else score < than


def rank(score: float, loss: float, greater_is_better: bool, ties: Sequence[float] = ()) -> tuple[float, ...]:
    """What results on the same held-out rows are compared by, the better one greater: score, then `ties`, then loss,
    NaN worse than any number. Scores that differ in their last digits only, by the order of a sum, are equal."""
    scores = [float(f"{value:.12g}") for value in (score if greater_is_better else -score, *ties)]
    return tuple(-math.inf if math.isnan(value) else value for value in (*scores, -loss))


@dataclass(frozen=True)
class Competition:
    """The one object the pipeline receives. Its parts are imported when they are used.

    The package holds `tables` (`train_rows`, `test_rows`), `targets` (`heads`, and `labels` where a cell does not name
    one class), `augmentations`, `metric` (`metrics`) and `submission` (`submission`).

    Attributes:
        dataset, model: what an experiment gets as `default`, "module:attribute"; "": the pipeline's own.
        names: adds to whatever is built by name: `{"loss": {"my_loss": "competition.losses:MyLoss"}}`.
        stages: trained before it, each with a package of its own and the same rows in the same folds: `{"gate":
            Competition(settings, "competition.gate")}`. An experiment names the stage it trains (`stage: gate`), and
            those whose predictions it reads (`inputs: {gate: gate_baseline}`).
        parts: replace those of the package, "metric:metrics" -> function, as in a run what forms no weights.
        trained_with: the settings for what forms weights, where they are others.
    """

    settings: Settings
    package: str = "competition"
    dataset: str = ""
    model: str = ""
    names: References = field(default_factory=dict)
    stages: "Mapping[str, Competition]" = field(default_factory=dict)
    parts: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    trained_with: Settings | None = None

    def stage(self, name: str) -> "Competition":
        """One of the stages, which knows the names of the whole as well; with an empty name the competition itself. A
        `UserError` where there is no such stage."""
        if not name:
            return self
        if name not in self.stages:
            raise UserError(f"the competition has no stage '{name}'; {nearest(name, self.stages)}")
        return replace(self.stages[name], names=Registry(self.names, self.stages[name].names).table)

    def train_rows(self, data: Path) -> pd.DataFrame:
        """Rows of the training table: `id` (str, unique), `image` (path below `data`), the truth, and where they exist
        `prediction_id`, `group`, `source`, `weight` and `only_fold`."""
        self.require_settings()
        rows = self.part("tables", "train_rows")(self.trained_with or self.settings, data)
        rows = checked(rows, self.settings.train_csv, self.settings)
        if rows.empty:
            raise UserError(f"{self.settings.train_csv} has no rows; download the data again")
        require_groups(rows, self.settings)
        for name, value in ((ROW_SOURCE, SOURCE_COMPETITION), (ROW_WEIGHT, 1.0)):
            if name not in rows:
                rows[name] = value
        rows = with_predictions(rows, self.settings.target_columns)
        labels = self.labels()
        return rows if labels is None else labels.marked(rows)

    def test_rows(self, data: Path) -> pd.DataFrame:
        """Rows to predict: `id` and `image`. An empty table is legal (a code competition hides them)."""
        rows = checked(self.part("tables", "test_rows")(self.settings, data), self.settings.test_csv, self.settings)
        return with_predictions(rows)

    def heads(self, classes: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
        """What is predicted, given the class order of each target column."""
        heads = tuple(self.part("targets", "heads")(self.trained_with or self.settings, classes))
        names = [head.name for head in heads]
        if len(set(names)) < len(names):
            raise UserError(f"{self.package}.targets names a head twice: {', '.join(names)}")
        return heads

    def labels(self) -> Any:
        """How the target columns are read, a `pipeline.data.labels.Labels`; none where `targets` does not say it."""
        part = getattr(importlib.import_module(f"{self.package}.targets"), "labels", None)
        return None if part is None else part(self.trained_with or self.settings)

    def require_settings(self) -> None:
        """Raise a `UserError` for settings that nothing reads, since they are about images that are predicted whole."""
        labels = self.labels()
        unread = [name for name in ("side_columns", "prediction_column") if getattr(self.settings, name)]
        if unread and labels is not None and not labels.of_whole_images and not self.stages:
            raise UserError(f"{unread[0]} in competition.yaml is read by nothing in {self.settings.task}; take it out")

    def metrics(self) -> tuple[Metric, ...]:
        """The leaderboard's metric first, then what else is worth watching."""
        return tuple(self.part("metric", "metrics")(self.settings))

    def submission(self, sample: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> pd.DataFrame:
        """The submission table: the sample's columns, one row per row of `predictions`."""
        arguments = self.settings, sample, predictions, heads, self.metrics()[0]
        return self.part("submission", "submission")(*arguments)

    def all_names(self) -> References:
        """The competition's names, with its dataset, model and augmentations as `default`."""
        own = {"dataset": self.dataset, "model": self.model}
        own["augmentations"] = f"{self.package}.augmentations:augmentations"
        defaults = {kind: {"default": reference} for kind, reference in own.items() if reference}
        return Registry(defaults, self.names).table

    def part(self, module: str, function: str) -> Any:
        """A function of one of the package's modules."""
        name = f"{module}:{function}"
        return self.parts.get(name) or load(f"{self.package}.{name}", f"src/{self.package}/{module}.py")


def metric_values(
    metrics: Sequence[Metric], truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]
) -> dict[str, float]:
    """Every metric by name; both tables are aligned by id."""
    return {metric.name: float(metric.function(truth, predictions, heads)) for metric in metrics}
