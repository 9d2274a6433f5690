"""From maps of masks to tables of predictions, and from rows to tables of truth."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd

from pipeline.competition import Head, Metric
from pipeline.heads.mask import kind_of
from pipeline.heads.mask_decoding import USUAL, columns, has_presence, presence_columns
from pipeline.keys import ROW_ID
from pipeline.metrics.masks import Scored
from pipeline.tasks.components import Predictions, Tuner
from pipeline.tasks.segmentation.tables import mask_labels, with_masks
from pipeline.tasks.segmentation.thresholds import Tuning
from toolkit.masks import maps


class MaskPredictions(Predictions):
    """Columns of map cells."""

    def empty(self) -> pd.DataFrame:
        names = [name for head in self.heads for name in columns(head)]
        return pd.DataFrame(columns=names, index=pd.Index([], name=ROW_ID, dtype="str"), dtype=object)

    def truth(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows.set_index(ROW_ID)[[head.name for head in self.heads]]

    def constants(self, rows: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {"all empty": self._constant(held_out, 0), "all full": self._constant(held_out, 255)}

    def _constant(self, rows: pd.DataFrame, value: int) -> pd.DataFrame:
        cells = {
            name: [maps.encode(np.full((1, 1), value, np.uint8), truth.size) for truth in rows[head.name]]
            for head in self.heads
            for name in columns(head)
        }
        return pd.DataFrame(cells, index=pd.Index(rows[ROW_ID], name=ROW_ID, dtype="str"), dtype=object)

    def average(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        if len(tables) == 1:
            return tables[0]
        merged = tables[0].copy()
        for head in self.heads:
            for name in columns(head):
                cells = zip(*(table[name] for table in tables), strict=True)
                merged[name] = pd.Series([maps.average(each) for each in cells], index=merged.index, dtype=object)
            if has_presence(merged, head):
                names = presence_columns(head)
                merged[names] = np.mean([table[names].to_numpy() for table in tables], axis=0, dtype=np.float64)
        return merged

    def logits(self) -> dict[Head, str]:
        return {head: kind_of(head).form for head in self.heads}

    def pseudo_labels(self, predictions: pd.DataFrame, above: float, soft: bool) -> pd.DataFrame:
        return mask_labels(predictions, self.heads, above > 0 or soft)

    def labelled(self, rows: pd.DataFrame) -> pd.DataFrame:
        return with_masks(rows, self.heads)

    def as_numbers(self, table: pd.DataFrame) -> np.ndarray:
        """The maps at 16 x 16."""
        cells = table[[name for head in self.heads for name in columns(head)]].itertuples(index=False, name=None)
        small = [
            [cv2.resize(maps.probability(cell), (16, 16), interpolation=cv2.INTER_AREA) for cell in row]
            for row in cells
        ]
        return np.reshape(small, (len(table), -1)).astype(np.float64)

    def tuner(
        self, truth: pd.DataFrame, predictions: pd.DataFrame, metric: Metric, quick: bool = False
    ) -> Tuner | None:
        if metric.needs != "labels" or (quick and not isinstance(metric.function, Scored)):
            return None  # a metric of one's own may be too slow to be called for thresholds in every epoch
        tunings = [Tuning(truth, predictions, head, metric, quick=quick) for head in self.heads]

        def tuned(rows: np.ndarray) -> tuple[Head, ...]:
            heads = [replace(head, thresholds=each.best(rows)) for head, each in zip(self.heads, tunings, strict=True)]
            if quick and any(len(each.sample) < each.rows for each in tunings):  # what suits a sample may not suit all
                tables = (truth, predictions) if rows.all() else (truth[rows], predictions[rows])
                usual, found = (metric.function(*tables, each) for each in (self.heads, heads))
                if not metric.better(found, usual):
                    return self.heads
            return tuple(heads)

        return tuned

    def threshold_counts(self) -> dict[str, int]:
        return {head.name: len(head.classes) * len(USUAL) for head in self.heads}
