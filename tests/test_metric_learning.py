"""Identities: loss, layer, retrieval, folds, scores and submissions, each against an independent oracle."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_metric_learning import losses as peers
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate

from pipeline.competition import Competition, Head
from pipeline.config import LossRow, parse_experiment
from pipeline.data.folds import make_folds, split
from pipeline.heads.base import kind_of
from pipeline.heads.columns import has_truth
from pipeline.heads.identities import Identities
from pipeline.heads.kinds import embedding
from pipeline.heads.rankings import label_columns, score_columns
from pipeline.heads.submission_columns import submission_table
from pipeline.losses.embedding import ArcFace
from pipeline.metrics.embedding import SCORES
from pipeline.metrics.image_level import find_metric
from pipeline.registry import Registry, Spec
from pipeline.settings import Settings
from pipeline.tasks import task_for
from pipeline.tasks.image_level.task import ImageLevelTask
from pipeline.training.validation import Validation
from projects import ROOT, Renders, imported, metric_choices, run_script
from toolkit.errors import UserError
from training import expect

ANSWERS = {"task": "metric_learning", "trackers": []}
NAMES = ("map_at_5", "map_at_3", "map_at_10", "accuracy", "recall_at_1", "recall_at_5", "gap")
WHALES = tuple(f"w_{number:02d}" for number in range(30))
NEW = "new_whale"
EXPERIMENT = """extends: demo
image: {size: 24}
model: {encoder: resnet10t, params: {head_params: {identity: {size: 32, subcenters: 2}}}}
losses: [{head: identity, loss: {name: arcface, params: {dynamic_margin: [0.1, 0.3]}}}]
training: {epochs: 4}
machine: {workers: 0}
watch: {figure_epochs: 0}
"""
COMPETITION = Competition(Settings.model_construct(), parts={"metric:metrics": lambda _: [find_metric("map_at_5")]})
REGISTRY = Registry(ImageLevelTask.NAMES)


def make_head(classes: tuple[str, ...] = WHALES, unknown: str = NEW, **more: Any) -> Any:
    return Head("whale", "embedding", classes, unknown=unknown, **more)


def make_task(head: Any = None) -> Any:
    return task_for(COMPETITION, [head or make_head()])


def table(lists: list[list[tuple[str, float]]], head: Any, ids: list[str] | None = None) -> pd.DataFrame:
    """Predictions from lists of (label, score), best first."""
    width = len(label_columns(head))
    full = [[*row, *[("", -1.0)] * (width - len(row))] for row in lists]
    columns = {name: [row[place][0] for row in full] for place, name in enumerate(label_columns(head))}
    columns |= {
        name: np.array([row[place][1] for row in full], np.float32) for place, name in enumerate(score_columns(head))
    }
    return pd.DataFrame(columns, index=pd.Index(ids or [f"r{row}" for row in range(len(lists))], name="id"))


def score(name: str, truth: list[str], predictions: pd.DataFrame, head: Any) -> float:
    return float(find_metric(name).function(pd.DataFrame({"whale": truth}, predictions.index), predictions, [head]))


def random_cosines(rows: int = 300, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    """Cosines (rows, classes) without ties, and a truth that they know something of; a fifth is unknown."""
    generator = np.random.default_rng(seed)
    cosines = generator.uniform(-0.5, 0.9, (rows, len(WHALES)))
    numbers = generator.integers(0, len(WHALES), rows)
    cosines[np.arange(rows), numbers] += generator.uniform(0, 0.6, rows)
    truth = np.where(generator.random(rows) < 0.2, NEW, np.array(WHALES)[numbers])
    return torch.tensor(cosines / 2), list(truth)


# The loss


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.2])
@pytest.mark.parametrize("subcenters", [1, 3])
def test_layer_and_loss_are_those_of_pytorch_metric_learning(margin: float, subcenters: int) -> None:
    torch.manual_seed(0)
    head = make_head()
    layer = kind_of(head).layer(10, size=6, subcenters=subcenters)
    with torch.no_grad():
        layer.centers.mul_(3)  # lengths do not matter
    outputs = layer.train()(torch.randn(64, 10) * 5)
    embedding, cosines = outputs["output_whale@embedding"], outputs["output_whale"]
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(64))
    assert cosines.shape == (64, 30) and embedding.dtype == cosines.dtype == torch.float32
    target = torch.randint(0, 30, (64,))
    made = peers.ArcFaceLoss if subcenters == 1 else peers.SubCenterArcFaceLoss
    options = {} if subcenters == 1 else {"sub_centers": subcenters}
    peer = made(num_classes=30, embedding_size=6, margin=math.degrees(margin), scale=20, **options)
    peer.W.data = layer.centers.data.T.clone()
    found = ArcFace(head, scale=20.0, margin=margin)(cosines, target)
    assert found.shape == (64,)
    torch.testing.assert_close(found.mean(), peer(embedding, target), rtol=1e-4, atol=1e-4)
    found.mean().backward()
    peer(embedding.detach(), target).backward()
    torch.testing.assert_close(layer.centers.grad, peer.W.grad.T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("easy", [False, True])
@pytest.mark.parametrize("value", [1.0, -1.0, 1.0000001, 0.0])
def test_gradients_are_finite_at_the_ends(easy: bool, value: float) -> None:
    cosines = torch.full((3, 30), value, requires_grad=True)
    entry = Spec(name="arcface", params={"scale": 64.0, "margin": 0.5, "easy_margin": easy})
    criterion = make_task().criterion([LossRow(head="whale", loss=entry)], REGISTRY, random_rows())
    batch = {"target_whale": torch.tensor([0, 5, -1]), "input_weight": torch.ones(3)}
    result = criterion({"output_whale": cosines}, batch)
    result["loss"].backward()
    assert torch.isfinite(result["loss"]) and torch.isfinite(cosines.grad).all()
    [each] = result["sample_losses"].values()
    assert each[2] == 0 and (cosines.grad[2] == 0).all(), "a row of no class trains nothing"
    assert (cosines.grad[:2] != 0).all()


def test_the_own_cosine_falls_with_the_angle_by_either_rule() -> None:
    head = make_head(("a", "b"))
    angles = torch.linspace(0.01, math.pi - 0.01, 200)
    cosines = torch.stack([angles.cos(), torch.zeros(200)], dim=1)
    target = torch.zeros(200, dtype=torch.int64)
    margin, scale = 0.4, 10.0
    own = torch.where(angles > math.pi - margin, angles.cos() - margin * math.sin(margin), (angles + margin).cos())
    easy = torch.where(angles < math.pi / 2, (angles + margin).cos(), angles.cos())
    for rule, expected in ((False, own), (True, easy)):
        found = ArcFace(head, scale=scale, margin=margin, easy_margin=rule)(cosines, target)
        torch.testing.assert_close(found, functional.softplus(-scale * expected), rtol=1e-4, atol=1e-5)
    assert (own.diff() < 0).all()


def test_dynamic_margins_go_with_the_fourth_root() -> None:
    head = make_head(("a", "b", "c"))
    task = make_task(head)
    row = LossRow(head="whale", loss=Spec(name="arcface", params={"dynamic_margin": [0.05, 0.5]}))
    rows = pd.DataFrame({"id": range(98), "whale": ["a"] * 81 + ["b"] * 16 + ["c"]})
    criterion = task.criterion([row], REGISTRY, rows)
    rarity = np.array([1 / 3, 1 / 2, 1.0])
    expected = 0.05 + 0.45 * (rarity - 1 / 3) / (2 / 3)
    np.testing.assert_allclose(criterion.terms[0].function.margins.numpy(), expected, rtol=1e-6)


def test_the_layer_takes_a_batch_of_one_and_stays_in_float32() -> None:
    layer = kind_of(make_head()).layer(10).train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(torch.randn(1, 10))
    assert all(value.dtype == torch.float32 for value in outputs.values())
    expected = functional.normalize(outputs["output_whale@embedding"]) @ functional.normalize(layer.centers).T
    torch.testing.assert_close(outputs["output_whale"], expected)


# Predictions


def test_decoding_lists_the_best_classes() -> None:
    cosines, _ = random_cosines(50)
    found = make_task().predictions.decode([str(row) for row in range(50)], {"output_whale": cosines})
    order = np.argsort(-cosines.numpy(), axis=1)[:, :20]
    labels = found[[f"whale:label_{place}" for place in range(1, 21)]].to_numpy()
    scores = found[[f"whale:score_{place}" for place in range(1, 21)]]
    np.testing.assert_array_equal(labels, np.array(WHALES)[order])
    assert (scores.dtypes == np.float32).all()
    np.testing.assert_allclose(scores.to_numpy(), np.take_along_axis(cosines.numpy(), order, 1), rtol=1e-6)
    assert list(make_task().predictions.empty()) == list(found)


def unit(rows: int, generator: torch.Generator, size: int = 8) -> torch.Tensor:
    return functional.normalize(torch.randn(rows, size, generator=generator))


@pytest.mark.parametrize("block", [1 << 26, 100])
def test_a_class_is_as_near_as_its_nearest_image(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    gallery, queries = unit(40, generator), unit(9, generator)
    classes = np.arange(40) % 7 - 1  # those of no class are left out
    found = embedding.Gallery(gallery, classes, 8).cosines([str(row) for row in range(9)], queries)
    for row in range(9):
        for number in range(8):
            own = [float(queries[row] @ gallery[place]) for place in range(40) if classes[place] == number]
            assert found[row, number] == pytest.approx(max(own, default=-math.inf), abs=1e-6)
    among = embedding.Gallery(gallery, classes, 8, [str(row) for row in range(40)])
    found = among.cosines([str(row) for row in range(40)], gallery)
    known = np.flatnonzero(classes >= 0)
    first = found[known].argmax(dim=1).numpy() == classes[known]
    assert first.mean() == pytest.approx(found_at_once(gallery[known].numpy(), classes[known]))


def found_at_once(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose nearest other row has the same label, by scikit-learn."""
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(embeddings).kneighbors(return_distance=False)
    return float((labels[nearest[:, 0]] == labels).mean())


def test_an_average_is_a_union_by_label() -> None:
    head = make_head(("a", "b", "c"), unknown="")
    first = table([[("a", 0.9), ("b", 0.5), ("c", 0.1)], [("a", 0.9)]], head)
    second = table([[("c", 0.8), ("b", 0.7), ("a", 0.2)], [("b", 0.3), ("a", 0.1)]], head)
    found = make_task(head).predictions.average([first, second])
    # In the second row the first table does not list b: it is no better than the last entry there, -1.
    expected = table([[("b", 0.6), ("a", 0.55), ("c", 0.45)], [("a", 0.5), ("b", -0.35)]], head)
    pd.testing.assert_frame_equal(found, expected, check_exact=False)
    pd.testing.assert_frame_equal(make_task(head).predictions.average([first]), first)
    cosines = [random_cosines(40, seed)[0] for seed in (1, 2, 3)]
    short = make_head(WHALES[:15])
    tables = [
        make_task(short).predictions.decode([str(row) for row in range(40)], {"output_whale": c[:, :15]})
        for c in cosines
    ]
    whole = make_task(short).predictions.decode(
        [str(row) for row in range(40)], {"output_whale": sum(c[:, :15] for c in cosines) / 3}
    )
    pd.testing.assert_frame_equal(make_task(short).predictions.average(tables), whole, check_exact=False)


def test_models_look_up_in_galleries_of_their_own_and_an_empty_one_is_refused() -> None:
    task, generator = make_task(), torch.Generator().manual_seed(1)
    rows = pd.DataFrame({"id": [f"g{row}" for row in range(12)], "whale": [*WHALES[:6], *WHALES[:4], NEW, NEW]})
    known = task.predictions.gallery(rows)
    assert list(known["id"]) == list(rows["id"][:10])
    models = [unit(10, generator), unit(10, generator)]
    key = "output_whale@embedding"
    batches = [(k, {key: model[start : start + 4]}) for start in (0, 4, 8) for k, model in enumerate(models)]
    queries = [unit(2, generator), unit(2, generator)]
    decoders = task.predictions.decoders(known, batches, own=False)
    for decode, model, query in zip(decoders.values(), models, queries, strict=True):
        found = decode({"input_id": ["x", "y"]}, {key: query, "output_whale": torch.zeros(2, 30)})
        nearest = (query @ model.T).argmax(dim=1)
        assert list(found["whale:label_1"]) == [known["whale"][int(row)] for row in nearest]
        assert (found["whale:label_7"] == "").all() and (found["whale:score_7"] == -1).all()
    with pytest.raises(UserError, match="the gallery is empty"):
        task.predictions.gallery(rows[10:])


# Truth and folds


def random_rows(groups: bool = False) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    labels = np.repeat([*WHALES, NEW], [*([1] * 6), *([2] * 6), *([3] * 6), *range(4, 16), 40])
    rows = pd.DataFrame({"id": [f"r{row}" for row in range(len(labels))], "whale": labels})
    rows = rows.sample(frac=1, random_state=1).reset_index(drop=True)
    return rows.assign(group=[f"g{number}" for number in generator.integers(0, 60, len(rows))]) if groups else rows


def test_images_are_held_out_where_others_are_left_to_find_them_by() -> None:
    labels = Identities(("whale",), NEW)
    folds = make_folds(labels.marked(random_rows()), labels, 5)
    assert max(folds.sizes()) - min(folds.sizes()) <= 1
    assert folds.warnings[0].startswith("6 of 30 identities have one row") and len(folds.warnings) == 1
    counts = folds.rows.groupby("whale")["fold"].agg(["size", "nunique"])
    assert (counts["nunique"] == counts["size"].clip(upper=5)).all()
    task = make_task()
    for fold in range(5):
        trains, held_out = split(folds.rows, fold)
        truth = task.predictions.truth(held_out)["whale"]
        assert (truth[~truth.isin(trains["whale"])] == NEW).all()
        lost = ~held_out["whale"].isin(trains["whale"])
        assert list(truth[lost.to_numpy() | (held_out["whale"] == NEW).to_numpy()].unique()) == [NEW]
    assert set(labels.cells(folds.rows, "whale")) == set(WHALES)


def test_whole_identities_are_held_out() -> None:
    labels = Identities(("whale",), NEW, hold_out="identities")
    folds = make_folds(labels.marked(random_rows()), labels, 4)
    per_identity = folds.rows.groupby("whale")["fold"].nunique()
    assert (per_identity.drop(NEW) == 1).all() and per_identity[NEW] == 4
    assert max(folds.sizes()) - min(folds.sizes()) < 10
    again = make_folds(labels.marked(random_rows()), labels, 4, seed=1)
    assert (again.rows["fold"] != folds.rows["fold"]).any()
    with pytest.raises(UserError, match="empty group_column"):
        make_folds(labels.marked(random_rows(groups=True)), labels, 4)
    held_out = folds.rows[folds.rows["fold"] == 0]
    assert make_task().predictions.gallery(folds.rows, held_out) is held_out


def test_an_answer_for_the_unknown_that_no_row_has_is_told() -> None:
    rows = random_rows()
    told = [note for note in make_folds(rows, Identities(("whale",), "new_digit"), 5).warnings if "new_digit" in note]
    assert len(told) == 1 and "no row is labelled 'new_digit'" in told[0] and "UNKNOWN" in told[0]
    for unknown in (NEW, ""):
        assert not [note for note in make_folds(rows, Identities(("whale",), unknown), 5).warnings if "label" in note]


@pytest.mark.parametrize(("competition", "word"), [("digits-demo", "new_digit"), ("humpback-whales", "")])
def test_the_demo_s_word_for_the_unknown_stays_with_the_demo(renders: Renders, competition: str, word: str) -> None:
    with imported(renders.shared({"task": "metric_learning", "competition": competition})):
        from competition import competition as found
        from demo_data.questions import truth

        [head] = found.heads({"identity": ["a", "b"]})
        assert (head.unknown, found.labels().unknown) == (word, word)
        assert ("new_digit" in truth(found.settings)["identity"].tolist()) == bool(word)


def test_folds_of_the_other_form_are_refused() -> None:
    images, whole = Identities(("whale",), NEW), Identities(("whale",), NEW, hold_out="identities")
    of_images, of_whole = (make_folds(random_rows(), labels, 4).rows for labels in (images, whole))
    images.check_folds(of_images, "folds/folds.csv")
    whole.check_folds(of_whole, "folds/folds.csv")
    lost = "ten.csv does not hold out identities, .*: 24 identities of 'whale' are in several folds .*ten --force"
    with pytest.raises(UserError, match=lost):
        whole.check_folds(of_images, "folds/ten.csv")
    with pytest.raises(UserError, match=r"does not hold out images, .*: no identity of 'whale' is in several folds"):
        images.check_folds(of_whole, "folds/folds.csv")
    single = of_whole.drop_duplicates("whale")
    images.check_folds(single, "folds/folds.csv")
    split = of_images.assign(fold=of_images["fold"].map({0: 0}).fillna(-1).astype("int64"))  # a given validation split
    images.check_folds(split, "folds/folds.csv")
    with pytest.raises(UserError, match=lost.replace("24 ", r"\d+ ")):
        whole.check_folds(split, "folds/ten.csv")


def test_groups_stay_together_and_make_identities_stand_alone() -> None:
    labels = Identities(("whale",), NEW)
    rows = make_folds(labels.marked(random_rows(groups=True)), labels, 4).rows
    assert (rows.groupby("group")["fold"].nunique() == 1).all()
    alone = rows.groupby("whale")["group"].nunique() == 1
    assert (rows["whale:alone"] == rows["whale"].map(alone)).all() and alone.sum() >= 6


def test_held_out_identities_are_scored_among_each_other() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = pd.DataFrame({"id": [f"r{row}" for row in range(30)], "whale": [WHALES[row // 3] for row in range(30)]})
    rows = Identities(("whale",), NEW, hold_out="identities").marked(rows)
    task = make_task()
    decode = task.decoder(None, None)
    seen = Validation(task, [find_metric("recall_at_1")], rows, decode, lambda rows, predictions: predictions)
    embedding = functional.normalize(unit(10, generator).repeat_interleave(3, dim=0) + 1.2 * unit(30, generator))
    order = torch.randperm(30, generator=generator)
    for part in order.split(8):
        result = {"loss": torch.zeros(()), "losses": {}, "sample_losses": {}}
        outputs = {"output_whale": torch.zeros(len(part), 30), "output_whale@embedding": embedding[part]}
        seen.add({"input_id": [f"r{int(row)}" for row in part]}, {**result, "outputs": outputs})
    peer = found_at_once(embedding.numpy(), np.arange(30) // 3)
    assert 0.3 < peer < 1
    assert all(list(kept) == ["output_whale@embedding"] for _, kept in seen.outputs), "cosines would fill the memory"
    assert seen.result(0).metrics["recall_at_1"] == pytest.approx(peer)


def test_a_label_that_is_no_class_names_its_row() -> None:
    rows = pd.DataFrame({"id": ["x", "y"], "whale": ["w_00", "w_30"]})
    with pytest.raises(UserError, match=r"column 'whale': 1 rows \(id y\) have the label 'w_30'.*did you mean 'w_"):
        make_task().criterion(make_task().default_losses(), REGISTRY, rows)
    with pytest.raises(UserError, match="'new_whale'"):
        make_task(make_head(unknown="")).predictions.gallery(rows.assign(whale=["w_00", NEW]))


# Scores


def test_an_empty_cell_is_no_answer() -> None:
    """As beside other heads: the row trains nothing here, is no part of a gallery, and is not scored."""
    head = make_head()
    rows = pd.DataFrame({"id": ["a", "b", "c"], "whale": [WHALES[1], None, NEW]})
    kind = kind_of(head)
    assert kind.targets(rows).tolist() == [1, -1, -1]
    assert make_task(head).predictions.gallery(rows)["id"].tolist() == ["a"]
    assert has_truth(kind.truth(rows.set_index("id")), head).tolist() == [True, False, True]


def test_every_score_against_torchmetrics_and_scikit_learn() -> None:
    cosines, truth = random_cosines()
    limit = 0.4
    head = make_head(thresholds=(limit,))
    predictions = make_task(head).predictions.decode(
        [f"r{row}" for row in range(len(truth))], {"output_whale": cosines}
    )
    # The answer for the unknown is a class of constant score.
    whole = torch.cat([cosines.float(), torch.full((len(truth), 1), limit)], dim=1)
    is_true = torch.tensor([[name == true for name in (*WHALES, NEW)] for true in truth])
    known = np.array(truth) != NEW
    assert 0 < (~known).sum() < len(truth)

    def mean(function: Any, scores: torch.Tensor, true: torch.Tensor, most: int) -> float:
        return float(np.mean([function(s, t, top_k=most) for s, t in zip(scores, true, strict=True)]))

    best, said = cosines[:, :].max(dim=1).values.numpy(), np.array(WHALES)[cosines.argmax(dim=1).numpy()]
    right = said == np.array(truth)
    expected = {
        "map_at_5": mean(retrieval_average_precision, whole, is_true, 5),
        "map_at_3": mean(retrieval_average_precision, whole, is_true, 3),
        "map_at_10": mean(retrieval_average_precision, whole, is_true, 10),
        "accuracy": mean(retrieval_hit_rate, whole, is_true, 1),
        "recall_at_1": mean(retrieval_hit_rate, cosines[known], is_true[known, :-1], 1),
        "recall_at_5": mean(retrieval_hit_rate, cosines[known], is_true[known, :-1], 5),
        "gap": average_precision_score(right, best) * right.sum() / known.sum(),
    }
    assert tuple(expected) == NAMES
    for name, value in expected.items():
        assert score(name, truth, predictions, head) == pytest.approx(value, abs=1e-6), name


def test_copier_asks_for_every_metric_with_its_meaning() -> None:
    choices = metric_choices("metric_learning")
    assert [meaning.split(": ")[0] for meaning in choices] == list(choices.values()) == list(NAMES)
    assert [one.name for one in SCORES] == list(NAMES)


def test_worked_by_hand() -> None:
    head = make_head(thresholds=(0.5,))
    predictions = table(
        [
            [("w_00", 0.9), ("w_01", 0.8)],
            [("w_01", 0.9), ("w_00", 0.6)],
            [("w_02", 0.4), ("w_03", 0.3)],
            [("w_02", 0.4), ("w_03", 0.3)],
            [("w_04", 0.7)],
            [("w_05", 0.5), ("w_06", 0.2)],
        ],
        head,
    )
    truth = ["w_00", "w_00", NEW, "w_03", NEW, NEW]
    # Ranks: 1; 2; the unknown first; behind it and w_02, 3; behind w_04, 2; a score at the threshold reaches it, 2.
    assert score("map_at_5", truth, predictions, head) == pytest.approx((1 + 1 / 2 + 1 + 1 / 3 + 1 / 2 + 1 / 2) / 6)
    assert score("accuracy", truth, predictions, head) == pytest.approx(2 / 6)
    assert score("recall_at_1", truth, predictions, head) == pytest.approx(1 / 3)
    assert score("recall_at_5", truth, predictions, head) == 1
    # Two rows share the best score and are ranked as one: half of them are right, out of three that could be.
    assert score("gap", truth, predictions, head) == pytest.approx((1 / 2) * 1 / 3)


def test_all_unknown_and_not_finite() -> None:
    head = make_head()
    predictions = table([[("w_00", 0.9)], [("w_01", 0.1)]], head)
    for name in ("recall_at_1", "recall_at_5", "gap"):
        with pytest.warns(UndefinedMetricWarning, match="needs a row of a known identity"):
            assert math.isnan(score(name, [NEW, NEW], predictions, head))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score("map_at_5", [NEW, NEW], predictions, head) == pytest.approx((1 / 2 + 1) / 2)
        assert score("gap", ["w_02", "w_02"], predictions, head) == 0
    broken = predictions.assign(**{"whale:score_1": [np.nan, 0.1]})
    with pytest.warns(UndefinedMetricWarning, match="1 rows of the predictions are not finite"):
        assert math.isnan(score("map_at_5", ["w_00", NEW], broken, head))


def test_a_constant_names_the_most_frequent() -> None:
    head = make_head()
    rows = random_rows()
    rows = pd.concat([rows, pd.DataFrame({"id": ["a"] * 50, "whale": ["w_03"] * 50})])
    found = make_task(head).predictions.constant(rows, ["x", "y"])
    truth = list(rows["whale"].value_counts().index)
    assert [score("map_at_5", [name] * 2, found, head) for name in truth[:3]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert truth[:2] == ["w_03", NEW]


def test_thresholds_are_tuned() -> None:
    head = make_head()
    lists = [[("w_00", value)] for value in np.linspace(0.1, 0.9, 30)]
    predictions = table(lists, head)
    truth = pd.DataFrame({"whale": [NEW] * 9 + ["w_00"] * 21}, index=predictions.index)
    [found] = make_task(head).predictions.tuner(truth, predictions, find_metric("map_at_5"))(np.ones(len(truth), bool))
    assert lists[8][0][1] < found.thresholds[0] <= lists[9][0][1]
    assert make_task(make_head(unknown="")).predictions.tuner(truth, predictions, find_metric("map_at_5")) is None


# Submissions


def submitted(metric: str, unknown: str = NEW) -> tuple[pd.DataFrame, Any, Any]:
    """A submission of three rows, the task, and the metric."""
    head = make_head(unknown=unknown, thresholds=(0.5,) if unknown else ())
    predictions = table(
        [
            [(f"w_{place:02d}", value) for place, value in enumerate((0.9, 0.7, 0.3, 0.2, 0.1, 0.05))],
            [("w_07", 0.4), ("w_08", 0.3)],
            [("w_09", 0.8), ("w_01", 0.6)],
        ],
        head,
        ["x", "y", "z"],
    )
    sample = pd.DataFrame({"Image": [""], "Id": [""]})
    chosen = find_metric(metric)
    return submission_table(sample, predictions, [head], chosen, "Image"), make_task(head), chosen


@pytest.mark.parametrize(
    ("metric", "unknown", "expected"),
    [
        ("map_at_5", NEW, ["w_00 w_01 new_whale w_02 w_03", "new_whale w_07 w_08", "w_09 w_01 new_whale"]),
        ("map_at_3", "", ["w_00 w_01 w_02", "w_07 w_08", "w_09 w_01"]),
        ("accuracy", NEW, ["w_00", "new_whale", "w_09"]),
        ("gap", NEW, ["w_00 0.899999976", "w_07 0.400000006", "w_09 0.800000012"]),
    ],
)
def test_a_submission_lists_the_best_labels(metric: str, unknown: str, expected: list[str]) -> None:
    written, task, chosen = submitted(metric, unknown)
    assert list(written["Id"]) == expected
    rules = task.submission.rules(written, chosen)
    assert rules.described() == ["Id: labels of 'whale', the best first, out of 30"]
    assert rules.problems(written) == []
    back = task.submission.read(written.set_index("Image"), rules, chosen)
    truth = pd.DataFrame({"whale": ["w_01", "w_07", unknown or "w_01"]}, index=back.index)
    worth = {"map_at_5": (1 / 2 + 1 / 2 + 1 / 3) / 3, "map_at_3": (1 / 2 + 1 + 1 / 2) / 3, "accuracy": 0, "gap": 0.25}
    worth["gap"] = (1 / 3) / 2  # the third best score is the only right one, of two that could be
    assert chosen.function(truth, back, task.heads) == pytest.approx(worth[metric])


@pytest.mark.parametrize(
    ("metric", "cell", "kind", "text"),
    [
        ("map_at_5", "", "blank", "are blank"),
        ("map_at_5", "w_00 w_99", "label", "hold what is no label (w_99)"),
        ("map_at_5", "w_00,w_01", "label", "exactly, divided by spaces"),
        ("map_at_5", "w_00 w_01 w_02 w_03 w_04 w_05", "label", "hold more than 5 labels"),
        ("map_at_5", "w_00 w_00", "label", "name a label twice"),
        ("accuracy", "w_00 w_01", "label", "hold more than 1 labels"),
        ("gap", "w_00", "label", "are not a label and its score"),
        ("gap", "w_00 high", "label", "are not a label and its score"),
        ("gap", "w_99 0.5", "label", "hold what is no label (w_99)"),
    ],
)
def test_a_bad_cell_is_one_problem(metric: str, cell: str, kind: str, text: str) -> None:
    written, task, chosen = submitted(metric)
    rules = task.submission.rules(written, chosen)
    written.loc[1, "Id"] = cell
    [problem] = rules.problems(written)
    assert problem.kind == kind and text in problem.text, problem


def test_the_commented_example_of_an_own_metric_works() -> None:
    text = (ROOT / "variants/metric_learning/competition/metric.py").read_text()
    start = text.index("# def points_at_2")
    example = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text[start:].splitlines())
    scope: dict[str, Any] = {"pd": pd, "Sequence": Sequence, "Head": Head}
    exec(f"{text[:start]}\n{example}", scope)
    own = scope["metrics"](None)[0]
    head = make_head()
    predictions = table([[("w_00", 0.9), ("w_01", 0.8)], [("w_01", 0.9), ("w_00", 0.6)]], head)
    assert own.function(pd.DataFrame({"whale": ["w_00"] * 2}, predictions.index), predictions, [head]) == 2


# The whole path


def test_settings_of_the_layer_are_checked() -> None:
    for params, message in (
        ({"wale": {"size": 4}}, "there is no head 'wale'; did you mean 'whale'"),
        ({"whale": {"sise": 4}}, "head_params.whale.*did you mean 'size'"),
    ):
        values = {"model": {"encoder": "resnet10t", "pretrained": False, "params": {"head_params": params}}}
        with pytest.raises(UserError, match=message):
            make_task().model(parse_experiment(values, "x"), REGISTRY, pretrained=False)


@pytest.mark.slow
def test_the_whole_path(renders: Renders, tmp_path: Path) -> None:
    project = renders.copy(tmp_path / "project", ANSWERS)
    (project / "experiments/short.yaml").write_text(EXPERIMENT)
    expect(run_script(project, "make_demo_data.py"))
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    expect(run_script(project, "train.py", "short", "--fold", "all"))
    assert "map_at_5 out of fold" in expect(run_script(project, "evaluate.py", "short")).stdout
    expect(run_script(project, "predict.py", "short"))
    assert "the demo's leaderboard: map_at_5" in expect(run_script(project, "submit.py", "short")).stdout
    oof = pd.read_parquet(project / "runs/short/oof.parquet").set_index("id")
    train = pd.read_csv(project / "data/raw/train.csv", dtype=str).set_index("image_id")["identity"]
    several = train.map(train.value_counts()) > 1
    known = train[several & (train != "new_digit")]
    assert len(oof) == 1297 and (oof.loc[known.index, "identity:label_1"] == known).mean() > 0.7
    assert (project / "runs/short/figures/scores/identity.png").stat().st_size > 5000
    written = pd.read_csv(project / "submissions/short.csv", dtype=str)
    assert (written["identity"].str.split().str.len() == 5).all()
    answers = pd.read_csv(project / "data/raw/.answers.csv", dtype=str)
    ranks = [
        words.index(true) + 1 if true in words else math.inf
        for words, true in zip(written["identity"].str.split(), answers["identity"], strict=True)
    ]
    assert np.mean([1 / rank for rank in ranks]) > 0.6
