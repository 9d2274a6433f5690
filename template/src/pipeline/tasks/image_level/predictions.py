"""From outputs to tables of predictions, and from rows to tables of truth."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from pipeline.competition import Competition, Head, Metric
from pipeline.heads.base import kind_of
from pipeline.heads.columns import Aggregate
from pipeline.heads.thresholds import Ascent, as_rank, calls_to_try, coordinate_ascent, quick_ascent, values_to_try
from pipeline.keys import ROW_ID, ROW_PREDICTION
from pipeline.rows import by_prediction
from pipeline.tasks.components import Outputs, Predictions, Table, Tuner


class HeadPredictions(Predictions):
    """Columns of several heads; each kind of head says how its own come about."""

    def __init__(self, competition: Competition, heads: Sequence[Head]) -> None:
        super().__init__(competition, heads)
        self.kinds = [kind_of(head) for head in self.heads]
        self.columns = [kind.columns for kind in self.kinds]

    def decode(self, ids: Sequence[str], outputs: Outputs) -> Table:
        """Logits of one batch as predictions, indexed by id."""
        logits = [outputs[kind.head.output_key] for kind in self.kinds]
        read = torch.cat(logits, dim=1).cpu().split([each.shape[1] for each in logits], dim=1)  # one wait of a GPU
        parts = zip(self.kinds, read, strict=True)
        columns = {name: cells for kind, part in parts for name, cells in kind.columns.table(kind.decode(part)).items()}
        return pd.DataFrame(columns, index=pd.Index(list(ids), name=ROW_ID, dtype="str"))

    def empty(self) -> Table:
        return self.decode([], {kind.head.output_key: torch.empty(0, kind.width) for kind in self.kinds})

    def constants(self, rows: Table, held_out: Table) -> dict[str, Table]:
        return {"constant": self.constant(rows, list(held_out[ROW_ID]))}

    def constant(self, rows: Table, ids: Sequence[str]) -> Table:
        """The best prediction that looks at no image, for these ids; `rows` are those that train."""
        metric = self.competition.metrics()[0]
        columns: dict[str, np.ndarray] = {}
        for kind in self.kinds:
            columns |= kind.columns.table(np.tile(kind.constant(rows, metric), (len(ids), 1)))
        return pd.DataFrame(columns, index=pd.Index(list(ids), name=ROW_ID, dtype="str"))

    def tuner(self, truth: Table, predictions: Table, metric: Metric, quick: bool = False) -> Tuner | None:
        decides = metric.needs == "labels" or metric.may_cut
        if not decides or not any(self.threshold_counts().values()):
            return None
        ascent = partial(quick_ascent, calls=calls_to_try(metric)) if quick else coordinate_ascent
        return lambda rows: self._tuned(truth[rows], predictions[rows], metric, ascent)

    def _tuned(self, truth: Table, predictions: Table, metric: Metric, ascent: Ascent) -> tuple[Head, ...]:
        sign, heads = 1 if metric.greater_is_better else -1, list(self.heads)
        for number, kind in enumerate(self.kinds):

            def score(thresholds: tuple[float, ...], number: int = number) -> float:
                changed = replace(self.heads[number], thresholds=thresholds)
                return sign * metric.function(truth, predictions, [*heads[:number], changed, *heads[number + 1 :]])

            if usual := kind.columns.default_thresholds:
                tried = [values_to_try(values) for values in kind.columns.thresholded(predictions)]
                best = ascent(score, usual, tried)
                if as_rank(score(best)) > as_rank(score(())):  # not cut at all, probabilities may be better
                    heads[number] = replace(kind.head, thresholds=best)
        return tuple(heads)

    def threshold_counts(self) -> dict[str, int]:
        return {kind.head.name: len(kind.columns.default_thresholds) for kind in self.kinds}

    def average(self, tables: Sequence[Table]) -> Table:
        columns = [kind.columns for kind in self.kinds]
        return pd.concat([each.average([table[each.names] for table in tables]) for each in columns], axis=1)

    def logits(self) -> dict[Head, str]:
        return {kind.head: kind.logits for kind in self.kinds}

    def pseudo_labels(self, predictions: Table, above: float, soft: bool) -> Table:
        return pd.concat([kind.columns.pseudo_labels(predictions, above, soft) for kind in self.kinds], axis=1)

    def per_prediction(self, rows: Table, predictions: Table, aggregate: Aggregate) -> Table:
        """Predictions of rows, indexed by id, as those of their prediction ids, in the order of their first images, by
        the experiment's `aggregate`; rows without prediction ids stand for themselves."""
        if ROW_PREDICTION not in rows:
            return predictions
        ids = rows.set_index(ROW_ID)[ROW_PREDICTION].loc[predictions.index].to_numpy(object)
        index = pd.Index(pd.unique(ids), name=ROW_ID, dtype="str")
        parts = [kind.columns.aggregate(predictions[kind.columns.names], ids, aggregate) for kind in self.kinds]
        return pd.concat(parts, axis=1).set_axis(index, axis=0)

    def truth(self, rows: Table) -> Table:
        return self.image_truth(by_prediction(rows))

    def image_truth(self, rows: Table) -> Table:
        """The truth of labelled rows, each for itself where several have one prediction."""
        by_id = rows.set_index(ROW_ID, drop=False)
        return pd.concat([kind.truth(by_id) for kind in self.kinds], axis=1)
