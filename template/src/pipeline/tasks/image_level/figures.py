"""Figures and submission of image-level tasks: those of each head, as its columns are."""

import operator
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from pipeline.competition import Metric
from pipeline.data.explain_target import Explained, class_to_explain
from pipeline.data.sample_record import SampleRecord
from pipeline.heads.base import kind_of
from pipeline.heads.columns import Columns, has_truth
from pipeline.heads.submission_columns import SubmissionRules, rules_of
from pipeline.keys import ROW_ID
from pipeline.submission_schema import OwnRules, Rules
from pipeline.tasks.components import Figures, Outputs, Submission, Table
from pipeline.tasks.image_level.predictions import HeadPredictions
from pipeline.types import Batch
from toolkit.errors import UserError
from toolkit.plots.figures import NEUTRAL, RIGHT, WRONG, Drawing
from toolkit.plots.images import image_grid, shortened, visible
from toolkit.plots.samples import label_errors_figure

MOST_HEADS = 3  # whose answers are written at an image

# of a head: its columns, which samples have a truth, bool (N,), and its `read_out`: truth, prediction, confidence, (N,)
ReadOut = tuple[Columns, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class HeadFigures(Figures):
    """The figures of each head."""

    def __init__(self, predictions: HeadPredictions) -> None:
        super().__init__(predictions)
        self.tables, self.columns = predictions, [kind.columns for kind in predictions.kinds]

    def overview(self, truth: Table, predictions: Table) -> dict[str, Drawing]:
        figures: dict[str, Drawing] = {}
        for columns in self.columns:
            known = has_truth(truth, columns.head)
            if known.any():
                figures |= columns.figures(truth[known], predictions[known])
        return figures

    def examples(self, rows: Table, images: Sequence[Any], predictions: Table) -> dict[str, Drawing]:
        ids, truth = list(rows[ROW_ID]), self.tables.truth(rows)
        return {each.head.name: each.sample_figure(images, ids, truth, predictions) for each in self.columns}

    def samples(self, rows: Table, samples: Sequence[SampleRecord], heading: str) -> Drawing:
        read, titles, colors = self._read_out(rows, samples), [], []
        for row, sample in enumerate(samples):
            lines, color = [sample.caption()], NEUTRAL
            for columns, known, true, predicted, confidence in read[:MOST_HEADS]:
                label = f"{shortened(columns.head.name, 10)}: " if len(read) > 1 else ""
                lines.append(label + columns.caption(shortened(predicted[row], 16), float(confidence[row])))
                is_wrong = true[row] != predicted[row]
                if not known[row]:
                    lines[-1] += ", no truth"
                    continue
                if is_wrong:
                    lines[-1] += f"\ntrue: {shortened(true[row], 20)}"
                if columns.head.classes:
                    color = WRONG if is_wrong or color == WRONG else RIGHT
            titles.append("\n".join(lines))
            colors.append(color)
        images = [visible(sample.image) for sample in samples]
        return partial(image_grid, images, [sample.id for sample in samples], titles, colors, heading)

    def captions(self, rows: Table, samples: Sequence[SampleRecord]) -> Table:
        read, truths, predictions = self._read_out(rows, samples), [], []
        labels = [f"{columns.head.name}: " if len(read) > 1 else "" for columns, *_ in read]
        for row in range(len(samples)):
            true = [str(true[row]) if known[row] else "no truth" for _, known, true, _, _ in read]
            texts = [each.caption(str(predicted[row]), float(sure[row])) for each, _, _, predicted, sure in read]
            truths.append("; ".join(map(operator.add, labels, true)))
            predictions.append("; ".join(map(operator.add, labels, texts)))
        return pd.DataFrame({"truth": truths, "prediction": predictions})

    def _read_out(self, rows: Table, samples: Sequence[SampleRecord]) -> list[ReadOut]:
        outputs = {key: torch.stack([sample.outputs[key] for sample in samples]) for key in samples[0].outputs}
        truth, predictions = self.sample_tables(rows, {}, outputs)
        return [(each, has_truth(truth, each.head), *each.read_out(truth, predictions)) for each in self.columns]

    def sample_tables(self, rows: Table, batch: Batch, outputs: Outputs) -> tuple[Table, Table]:
        return self.tables.image_truth(rows), self.tables.decode(list(rows[ROW_ID]), outputs)

    def curves(self, truth: Table, predictions: Table) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for columns in self.columns:
            known = has_truth(truth, columns.head)
            of_classes = columns.ranked(truth[known], predictions[known])
            found |= {f"{columns.head.name}:{name}": pair for name, pair in of_classes.items()}
        return found

    def label_errors(self, truth: Table, predictions: Table) -> Table:
        parts = []
        for columns in self.columns:
            known = has_truth(truth, columns.head)
            found = columns.label_errors(truth[known], predictions[known])
            parts.append(found.rename_axis(ROW_ID).reset_index().assign(head=columns.head.name))
        return pd.concat(parts, ignore_index=True)

    def label_errors_figure(self, found: Table, images: Sequence[Any], truth: Table, predictions: Table) -> Figure:
        return label_errors_figure(found, images)

    def explain_target(self, batch: Batch, outputs: Outputs, name: str | None = None) -> Explained:
        """The highest logit, where a head has one for each class; otherwise their sum, which grows with the answer."""
        head, number = class_to_explain(self.heads, name)
        logits = outputs[head.output_key][0].float()
        if len(logits) != len(head.classes):
            return Explained(logits.sum(), head.name)
        number = int(logits.argmax()) if number is None else number
        return Explained(logits[number], head.classes[number])


class HeadSubmission(Submission):
    """A column per head, per class or per label."""

    def rules(self, sample: Table, metric: Metric, images: Mapping[str, Path] | None = None) -> Rules:
        id_column = self.competition.settings.id_column
        try:
            return rules_of(sample, id_column, self.heads, metric, set(images or ()))
        except UserError:
            return OwnRules.of(sample, id_column)

    def read(self, table: Table, rules: Rules, metric: Metric) -> Table | None:
        if not isinstance(rules, SubmissionRules) or rules.cell:
            return None
        if metric.needs == "probabilities" and any(column.of is None for column in rules.columns):
            return None
        parts: list[Table] = []
        for head in self.heads:
            own = kind_of(head).columns
            values = own.read({column.of: table[column.name] for column in rules.columns if column.head is head})
            if values is None:
                return None
            parts.append(pd.DataFrame(values, index=table.index, columns=own.names))
        return pd.concat(parts, axis=1)

    def shares(self, predictions: Table) -> dict[str, pd.Series]:
        return {head.name: kind_of(head).columns.shares(predictions) for head in self.heads}
