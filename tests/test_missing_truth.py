"""Rows without a truth for some head: they train and score the others, and nothing else notices them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch.nn import functional

from pipeline.competition import Head
from pipeline.config import LossRow
from pipeline.losses.image_level import BinaryCrossEntropy
from pipeline.metrics.combined import combined
from pipeline.metrics.image_level import find_metric
from pipeline.registry import Registry, Spec
from test_constant import task_of
from toolkit.errors import UserError

CLASSES = ("ant", "bee", "cat")
TASK = task_of(*[Head(name, "multiclass", CLASSES) for name in ("first", "second")], metrics=("accuracy", "log_loss"))


def make_rows() -> pd.DataFrame:
    first, second = ["ant", None, "cat", "bee", None], ["bee", "bee", None, "ant", "cat"]
    return pd.DataFrame({"id": list("abcde"), "image": "x.png", "first": first, "second": second})


def batch_of(rows: pd.DataFrame) -> dict[str, Any]:
    targets = {key: torch.from_numpy(values) for key, values in TASK.targets(rows).items()}
    return {"input_weight": torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0]), **targets}


def criterion_of(loss: str = "cross_entropy", **settings: Any) -> Any:
    losses = [LossRow(head=head.name, loss=Spec(name=loss), **settings) for head in TASK.heads]
    return TASK.criterion(losses, Registry(TASK.NAMES), make_rows())


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "focal", "asymmetric"])
def test_a_missing_truth_has_no_loss_and_no_gradient(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = {head.output_key: torch.randn(5, 3, generator=generator, requires_grad=True) for head in TASK.heads}
    batch = batch_of(make_rows())
    result = criterion_of(loss)(outputs, batch)
    result["loss"].backward()
    for head in TASK.heads:
        known = torch.tensor(make_rows()[head.name].notna().tolist())
        gradient = outputs[head.output_key].grad
        assert (gradient[~known] == 0).all() and (gradient[known].abs().sum(dim=1) > 0).all()
        values = result["sample_losses"][f"{head.name}_{loss}"]
        assert (values[~known] == 0).all() and values.isfinite().all()
        if loss == "cross_entropy":
            target = pd.Index(CLASSES).get_indexer(make_rows()[head.name].dropna())
            each = functional.cross_entropy(
                outputs[head.output_key][known], torch.from_numpy(target.copy()).long(), reduction="none"
            )
            expected = (each * batch["input_weight"][known]).sum() / 5
            assert float(result["losses"][f"{head.name}_{loss}"]) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_a_partner_without_truth_counts_nothing() -> None:
    outputs = {head.output_key: torch.randn(5, 3, generator=torch.Generator().manual_seed(1)) for head in TASK.heads}
    batch = batch_of(make_rows()) | {
        "input_partner": torch.tensor([1, 0, 3, 2, 4]),
        "input_share": torch.full((5,), 0.25),
    }
    values = criterion_of()(outputs, batch)["sample_losses"]["first_cross_entropy"]
    alone = functional.cross_entropy(outputs["output_first"][0], torch.tensor(0))
    assert values[0] == pytest.approx(float(0.25 * alone), rel=1e-6)  # its partner, row 1, has no truth
    of_row_1 = functional.cross_entropy(outputs["output_first"][1], torch.tensor(0))
    assert values[1] == pytest.approx(float(0.75 * of_row_1), rel=1e-6) and values[4] == 0


def test_gaps_in_a_row_of_labels_are_left_out() -> None:
    loss, logits = BinaryCrossEntropy(TASK.heads[0]), torch.tensor([[0.3, -2.0, 1.0]], requires_grad=True)
    value = loss(logits, torch.tensor([[1.0, float("nan"), 0.0]]))
    expected = functional.binary_cross_entropy_with_logits(logits[:, [0, 2]], torch.tensor([[1.0, 0.0]]))
    assert value.item() == pytest.approx(expected.item())
    value.backward()
    assert logits.grad is not None and logits.grad[0, 1] == 0 and logits.grad.isfinite().all()


def test_soft_truths_may_be_missing_as_well() -> None:
    rows = make_rows()
    for place, name in enumerate(CLASSES):
        rows[f"first:{name}"] = [None, None, str([0.2, 0.3, 0.5][place]), None, None]
    found = TASK.targets(rows)["target_first"]
    np.testing.assert_allclose(found[2], [0.2, 0.3, 0.5], rtol=1e-6)
    assert np.isnan(found[[1, 4]]).all() and found[0].tolist() == [1, 0, 0]
    outputs = {head.output_key: torch.zeros(5, 3) for head in TASK.heads}
    assert criterion_of(class_weights="balanced")(outputs, batch_of(rows))["loss"].isfinite()


@pytest.mark.parametrize("name", ["accuracy", "log_loss"])
def test_metrics_score_the_rows_that_have_a_truth(name: str) -> None:
    rows = make_rows()
    truth = TASK.predictions.truth(rows)
    given = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 5))
    columns = [f"{head}:{label}" for head in ("first", "second") for label in CLASSES]
    predictions = pd.DataFrame(np.hstack(given), columns=columns, index=truth.index)
    expected = []
    for head, values in zip(("first", "second"), given, strict=True):
        known = rows[head].notna().to_numpy()
        if name == "accuracy":
            expected.append(accuracy_score(rows[head][known], np.array(CLASSES)[values.argmax(axis=1)][known]))
        else:
            expected.append(log_loss(rows[head][known], values[known], labels=CLASSES))
    assert find_metric(name).function(truth, predictions, TASK.heads) == pytest.approx(np.mean(expected))
    weighted = combined("both", {"first": (name, 1), "second": (name, 3)})
    assert weighted.function(truth, predictions, TASK.heads) == pytest.approx(np.average(expected, weights=[1, 3]))
    assert weighted.greater_is_better == (name == "accuracy")
    figures = TASK.figures.overview(truth, predictions)
    assert {name.split("/")[1] for name in figures} == {"first", "second"}


def test_what_cannot_be_combined_is_refused() -> None:
    with pytest.raises(UserError, match="better when larger, others when smaller"):
        combined("both", {"first": ("accuracy", 1), "second": ("log_loss", 1)})
    with pytest.raises(UserError, match="weights that are below 0"):
        combined("both", {"first": ("accuracy", 0)})
    rows = make_rows()
    metric = combined("one", {"frist": ("accuracy", 1)})
    with pytest.raises(UserError, match="did you mean 'first'"):
        metric.function(TASK.predictions.truth(rows), TASK.predictions.constant(rows, list(rows["id"])), TASK.heads)
    with pytest.raises(UserError, match="did you mean 'first'"):
        metric.check_heads(TASK.heads)
    combined("one", {"first": ("accuracy", 1)}).check_heads(TASK.heads)


def test_a_row_without_any_truth_is_refused() -> None:
    rows = make_rows()
    rows.loc[3, ["first", "second"]] = None
    with pytest.raises(UserError, match=r"1 rows \(id d\) have no truth for any of first, second"):
        TASK.targets(rows)


def test_the_constant_counts_what_is_there() -> None:
    rows = make_rows()
    constant = TASK.predictions.constant(rows, ["x"]).loc["x"]
    assert constant[[f"first:{name}" for name in CLASSES]].tolist() == pytest.approx([1 / 3] * 3)
    assert constant[[f"second:{name}" for name in CLASSES]].tolist() == pytest.approx([0.25, 0.5, 0.25])
