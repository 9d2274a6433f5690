"""Grades in order by CORN: loss and probabilities by hand from the paper, and what is as with classes in no order."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import cohen_kappa_score
from torch import nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.heads.base import kind_of
from pipeline.heads.submission_columns import submission_table
from pipeline.metrics.image_level import find_metric
from pipeline.registry import Registry, Spec
from projects import Renders, run_script
from test_constant import task_of
from training import expect

GRADES = ("0", "1", "2", "3")
EXPERIMENT = """extends: demo
image: {size: 16}
training: {epochs: 1}
machine: {workers: 0}
"""


def make_task(kind: str = "ordinal", classes: tuple[str, ...] = GRADES) -> Any:
    return task_of(Head("grade", kind, classes), metrics=("accuracy", "log_loss"))


def make_loss(classes: tuple[str, ...] = GRADES) -> Any:
    task = make_task(classes=classes)
    return Registry(task.NAMES).bind("loss", Spec(name="corn"))(task.heads[0])


def corn_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """As the authors have it in coral-pytorch: for each task the rows that reached it, one mean over all of them."""
    total, count = torch.zeros(()), 0
    for task in range(logits.shape[1]):
        reached = truth > task - 1
        above = (truth[reached] > task).float()
        log_sigmoid = functional.logsigmoid(logits[reached, task])
        total = total - (log_sigmoid * above + (log_sigmoid - logits[reached, task]) * (1 - above)).sum()
        count += int(reached.sum())
    return total / count


def test_the_loss_is_that_of_the_authors() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, truth = 3 * torch.randn(200, 3, generator=generator), torch.randint(0, 4, (200,), generator=generator)
    found = make_loss()(logits, truth)
    asked = sum(min(int(grade) + 1, 3) for grade in truth)
    assert found.shape == (200,)
    torch.testing.assert_close(found.sum() / asked, corn_loss(logits, truth))


def test_the_loss_is_the_negative_logarithm_of_the_probability() -> None:
    logits, truth = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7]]), torch.tensor([1, 3])
    found = make_task().predictions.decode(["a", "b"], {"output_grade": logits}).to_numpy()
    np.testing.assert_allclose(make_loss()(logits, truth), -np.log(found[[0, 1], truth]), rtol=1e-5)
    soft = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.5, 0.5]])
    np.testing.assert_allclose(make_loss()(logits, soft), -(soft.numpy() * np.log(found)).sum(axis=1), rtol=1e-5)


def test_probabilities_by_hand() -> None:
    """P(above k) is the product of the conditional ones: 0.5, 0.5 x 0.8, 0.5 x 0.8 x 0.25."""
    logits = torch.tensor([[0.0, np.log(4.0), -np.log(3.0)]])
    found = make_task().predictions.decode(["a"], {"output_grade": logits})
    assert list(found) == [f"grade:{grade}" for grade in GRADES]
    np.testing.assert_allclose(found.to_numpy(), [[0.5, 0.1, 0.3, 0.1]], rtol=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_logits_of_float16_are_finite(sign: float) -> None:
    logits = torch.full((4, 3), sign * 65504, dtype=torch.float16, requires_grad=True)
    found = make_loss()(logits, torch.arange(4))
    found.sum().backward()
    assert torch.isfinite(found).all() and logits.grad is not None and torch.isfinite(logits.grad).all()
    given = make_task().predictions.decode(list("abcd"), {"output_grade": logits.detach()}).to_numpy()
    np.testing.assert_array_equal(given, np.tile([0, 0, 0, 1] if sign > 0 else [1, 0, 0, 0], (4, 1)))


def test_all_else_is_as_with_classes_in_no_order() -> None:
    rows = pd.DataFrame({"id": ["x", "y", "z"], "grade": ["0", "3", "3"]})
    ordinal, plain = make_task(), make_task("multiclass")
    said = pd.DataFrame(np.full((3, 4), 0.25), index=list("xyz"), columns=[f"grade:{grade}" for grade in GRADES])
    pd.testing.assert_frame_equal(ordinal.predictions.truth(rows), plain.predictions.truth(rows))
    pd.testing.assert_frame_equal(ordinal.predictions.constant(rows, ["a"]), plain.predictions.constant(rows, ["a"]))
    for name in ("accuracy", "log_loss", "quadratic_weighted_kappa"):
        metric, truth = find_metric(name), plain.predictions.truth(rows)
        assert metric.function(truth, said, ordinal.heads) == metric.function(truth, said, plain.heads)
    sample = pd.DataFrame({"image_id": [""], "grade": [""]})
    tables = [
        submission_table(sample, said, task.heads, find_metric("accuracy"), "image_id") for task in (ordinal, plain)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_it_learns_the_order_of_digits() -> None:
    """A digit is a grade from 0 to 9; a small network on its 64 pixels, with the head's own layer and loss."""
    digits, grades = load_digits(), tuple("0123456789")
    features, truth = torch.from_numpy(digits.data / 16).float(), torch.from_numpy(digits.target)
    held_out = torch.arange(len(truth)) % 3 == 0  # the last rows are other writers', which no such network knows well
    torch.manual_seed(0)
    task = make_task(classes=grades)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), kind_of(task.heads[0]).layer(64))
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=0.01), make_loss(grades)
    for _ in range(200):
        optimizer.zero_grad()
        loss(network(features[~held_out]), truth[~held_out]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        logits = network(features[held_out])
    said = (
        task.predictions.decode([str(row) for row in range(len(logits))], {"output_grade": logits})
        .to_numpy()
        .argmax(axis=1)
    )
    assert cohen_kappa_score(truth[held_out], said, weights="quadratic") > 0.95


@pytest.mark.slow
def test_a_word_in_targets_chooses_it(renders: Renders, tmp_path: Path) -> None:
    project = renders.copy(tmp_path / "project", {"trackers": [], "metric": "quadratic_weighted_kappa"})
    targets = project / "src/competition/targets.py"
    before = targets.read_text()
    targets.write_text(before.replace('Head(column, "multiclass"', 'Head(column, "ordinal"'))
    assert targets.read_text() != before
    (project / "experiments/short.yaml").write_text(EXPERIMENT)
    expect(run_script(project, "make_demo_data.py"))
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    for script in ("train.py", "evaluate.py", "predict.py", "submit.py"):
        expect(run_script(project, script, "short"))
    oof = pd.read_parquet(project / "runs/short/oof.parquet").set_index("id")
    columns = [f"label:{digit}" for digit in range(10)]
    np.testing.assert_allclose(oof[columns].sum(axis=1), 1, atol=1e-5)
    written = pd.read_csv(project / "submissions/short.csv", dtype=str)
    assert set(written["label"]) <= set("0123456789")
