"""Best and worst batches and samples, and that watching changes nothing."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from pipeline.competition import Competition
from pipeline.data.collate import collate
from pipeline.losses.masks import Dice
from pipeline.metrics.image_level import find_metric
from pipeline.metrics.masks import find_metric as find_mask_metric
from pipeline.tasks import task_for
from projects import Renders, run_script
from toolkit.distributed import ALONE
from training import assert_same_outcome, demo_project, expect, killed, outcome

USED = {
    "pipeline.callbacks.extremes": ["Extremes"],
    "pipeline.callbacks.ranking": ["Ranking", "StageSamples"],
    "pipeline.competition": ["Head", "Metric"],
    "pipeline.config": ["parse_experiment"],
    "toolkit.errors": ["UserError"],
    "pipeline.types": ["Progress", "StageResult"],
    "pipeline.tasks.segmentation.samples": ["dice", "masks_of", "planes_of"],
    "pipeline.data.sample_record": ["SampleRecord"],
    "toolkit.plots.figures": ["RIGHT", "WRONG", "pixels"],
}
LOSSES = [{"loss": "a", "name": "one"}, {"loss": "b", "name": "two", "weight": 2.0}]
KINDS = ("best_batch", "worst_batch", "best_samples", "worst_samples")


@pytest.fixture(scope="module")
def pipeline() -> Iterator[SimpleNamespace]:
    """What the tests use of the pipeline, in a render with both kinds of task."""
    modules = {module: importlib.import_module(module) for module in USED}
    yield SimpleNamespace(
        module=modules["pipeline.callbacks.ranking"],
        **{name: getattr(modules[module], name) for module in USED for name in USED[module]},
    )


def task_of(**figures: Any) -> Any:
    """As much of a task as ranks."""
    predictions = SimpleNamespace(looks_among=lambda rows: False)
    return SimpleNamespace(
        figures=SimpleNamespace(**{"sample_score": "", **figures}), predictions=predictions, heads=["head"]
    )


def ranked(pipeline: SimpleNamespace, task: Any, metric: Any) -> Any:
    """A ranking of a task's samples by a metric."""
    config = pipeline.parse_experiment({"losses": LOSSES, "watch": {"extremes_by": metric.name}}, "test")
    return pipeline.Ranking(task, config, [metric], pd.DataFrame())


def scored(
    ranking: Any, rows: pd.DataFrame, batch: dict[str, Any], outputs: dict[str, Any]
) -> tuple[np.ndarray, float]:
    """The metric of the samples, and of the batch."""
    losses = {"one": torch.zeros(len(rows))}
    result = {"loss": torch.zeros(()), "losses": {}, "sample_losses": losses, "outputs": outputs}
    badness, _ = ranking(rows, {**batch, "input_row": torch.arange(len(rows))}, result)
    *each, whole = (ranking.sign * badness).tolist()
    return np.array(each), whole


def sample(index: tuple[int, int]) -> dict[str, Any]:
    """What a dataset gives at a position, as a batch of its own: the image of row k is k throughout."""
    row = torch.tensor([index[1]])
    image = torch.full((1, 4, 4, 3), index[1] % 256, dtype=torch.uint8)
    return {"input_id": [f"id {index[1]}"], "input_row": row, "input_image": image, "target_label": row}


def fed(
    pipeline: SimpleNamespace,
    batches: Sequence[Sequence[float]],
    ranking: Any = None,
    device: Any = "cpu",
    **watch: Any,
) -> Any:
    """A stage that has seen batches whose samples have these losses by the first term, and half of each by the second.
    `ranking` is by a metric, where one ranks."""
    count = sum(map(len, batches))
    rows = pd.DataFrame({"id": [f"id {row}" for row in range(count)]})
    if ranking is None:
        config = pipeline.parse_experiment({"losses": LOSSES, "watch": watch}, "test")
        ranking = pipeline.Ranking(task_of(), config, [], rows)
    seen = pipeline.StageSamples(ranking, rows)
    start = 0
    for losses in batches:
        numbers = torch.arange(start, start + len(losses), device=device)
        ids = [f"id {row}" for row in range(start, start + len(losses))]
        start += len(losses)
        terms = {"one": torch.tensor(losses, device=device), "two": torch.tensor(losses, device=device) / -4}
        batch = {"input_id": ids, "input_row": numbers, "target_label": numbers}
        mixed = {"input_partner": numbers.flip(0), "input_share": torch.linspace(0.5, 1, len(losses), device=device)}
        means = {term: value.mean() for term, value in terms.items()}
        other_mask = torch.zeros(len(losses), 1000, device=device)
        outputs = {"output_label": numbers[:, None].float(), "output_label@1": other_mask}
        loss = (means["one"] + 2 * means["two"]).requires_grad_()
        result = {"loss": loss, "losses": means, "sample_losses": terms, "outputs": outputs, "mixed": mixed}
        seen.add(batch, result)
    return seen


def ended(seen: Any) -> Any:
    """The same, read back."""
    seen.gather(ALONE, [(0, number) for number in range(len(seen.rows))])
    return seen


def records(seen: Any, name: str) -> list[Any]:
    """The samples of a list, or of the best or worst batch, as figures take them."""
    entries = seen.extreme_batches[name[:-6]][3] if name.endswith("_batch") else seen.lists[name]
    return [seen.record(kept, sample) for _, kept in entries]


def numbers(seen: Any, name: str) -> list[int]:
    return [sample.row for sample in records(seen, name)]


def test_the_kept_samples_are_those_of_a_sort(pipeline: SimpleNamespace) -> None:
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, 40, 16).astype(np.float32).tolist() for _ in range(12)]  # many are equal
    losses = np.concatenate(batches)
    seen = ended(fed(pipeline, batches))
    best, worst = (np.argsort(sign * losses, kind="stable")[:8] for sign in (1, -1))
    assert numbers(seen, "best") == best.tolist(), "of equal ones the earlier comes first"
    assert numbers(seen, "worst") == worst.tolist()
    np.testing.assert_allclose([one.loss for one in records(seen, "worst")], losses[worst] / 2)
    means = [np.mean(batch) for batch in batches]
    for name, place, sign in (("best", np.argmin(means), 1), ("worst", np.argmax(means), -1)):
        key, number, size, _ = seen.extreme_batches[name]
        assert (number, size) == (place + 1, 16)
        assert sign * key[1] == pytest.approx(means[place] / 2)
        order = np.argsort(sign * np.array(batches[place]), kind="stable")[:8]
        assert numbers(seen, f"{name}_batch") == (16 * place + order).tolist()
    for one in [*records(seen, "best"), *records(seen, "worst")]:
        assert one.id == f"id {one.row}"
        assert (one.image == one.row).all() and one.image.dtype == np.uint8
        assert list(one.targets) == ["target_label"] and list(one.outputs) == ["output_label"]
        assert int(one.targets["target_label"]) == int(one.outputs["output_label"]) == one.row
        first = one.row // 16 * 16
        partner = f"id {2 * first + 15 - one.row}"
        own = one.row % 16 == 15
        assert one.mixed is None if own else one.mixed[0] == partner, "a share of 1 is not mixed"


def test_shares_of_several_processes_are_joined(pipeline: SimpleNamespace) -> None:
    generator = np.random.default_rng(0)
    batches = [generator.permutation(160)[:16].astype(np.float32).tolist() for _ in range(6)]
    batches[2][3] = float("nan")
    whole = ended(fed(pipeline, batches))
    main, other = (fed(pipeline, [batch[part] for batch in batches]) for part in (slice(8), slice(8, 16)))
    sent: list[Any] = []
    positions = [(0, number) for number in range(48)]
    other.gather(SimpleNamespace(gather=lambda share: sent.append(share) or []), positions)
    main.gather(SimpleNamespace(gather=lambda share: [share, *sent]), positions)
    for name in ("best", "worst"):
        assert [one.loss for one in records(main, name)] == [one.loss for one in records(whole, name)]
    assert (main.counts["all"], len(main.ends) - 1, len(main.lists["not_finite"])) == (96, 6, 1)
    means = np.nanmean(np.array(batches).reshape(6, 2, 8)[[0, 1, 3, 4, 5]], axis=2) / 2
    assert main.extreme_batches["best"][0][1] <= means.min() + 1e-4
    assert -main.extreme_batches["worst"][0][1] >= means.max() - 1e-4
    same = fed(pipeline, batches[:1])  # the loss of a training batch is that of all its shares
    same.gather(SimpleNamespace(gather=lambda share: [share, share]), positions)
    assert same.extreme_batches["best"][2] == 32 and len(records(same, "best_batch")) == 8


def test_a_term_ranks_where_it_is_asked_for(pipeline: SimpleNamespace) -> None:
    seen = ended(fed(pipeline, [[1.0, 4.0], [3.0, 2.0]], extremes_by="two"))
    assert numbers(seen, "best") == [1, 2, 3, 0], "the second term falls where the first one grows"
    heading, _ = seen.pictures("train, epoch 1")["best_batch"]
    assert "by" not in heading and "two -0.625" in heading


def of_metric(pipeline: SimpleNamespace, values: np.ndarray, greater_is_better: bool = True) -> Any:
    """A ranking by a metric that is the mean of these, of the rows that it is asked for; it refuses NaN."""

    def tables(rows: pd.DataFrame, batch: dict[str, Any], outputs: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
        assert rows["id"].tolist() == batch["input_id"] and len(outputs["output_label"]) == len(rows)
        index = pd.Index(rows["id"], name="id")
        return pd.DataFrame({"row": batch["target_label"].numpy()}, index), pd.DataFrame(index=index)

    def function(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Any) -> float:
        assert truth.index.equals(predictions.index) and heads == ["head"]
        found = values[truth["row"]]
        if np.isnan(found).any():
            raise ValueError("one class only\nand more")
        return float(found.mean())

    return ranked(pipeline, task_of(sample_tables=tables), pipeline.Metric("quality", function, greater_is_better))


@pytest.mark.parametrize("greater", [True, False])
def test_a_metric_ranks_in_its_own_direction(pipeline: SimpleNamespace, greater: bool) -> None:
    generator = np.random.default_rng(1)
    batches = [generator.permutation(160)[:16].astype(np.float32).tolist() for _ in range(6)]
    values = generator.integers(0, 4, 96).astype(float)  # many are equal: then the loss decides
    seen = ended(fed(pipeline, batches, of_metric(pipeline, values, greater)))
    table = pd.DataFrame({"score": values, "loss": np.concatenate(batches)})
    best = table.sort_values(["score", "loss"], ascending=[not greater, True], kind="stable").index[:8].tolist()
    worst = table.sort_values(["score", "loss"], ascending=[greater, False], kind="stable").index[:8].tolist()
    assert (numbers(seen, "best"), numbers(seen, "worst")) == (best, worst)
    assert all(one.scored == ("quality", values[one.row]) for name in ("best", "worst") for one in records(seen, name))
    told = f"quality {values[worst[0]]:.3g}, loss {table['loss'][worst[0]] / 2:.3g}"
    assert records(seen, "worst")[0].caption().partition("\n")[0] == told
    means = table.groupby(table.index // 16).mean()
    order = (means.sort_values(["score", "loss"], ascending=[not greater, True]).index + 1).tolist()
    assert [seen.extreme_batches[name][1] for name in ("best", "worst")] == [order[0], order[-1]]
    assert not seen.counts["samples"] and not seen.counts["batches"]
    heading, _ = seen.pictures("train, epoch 1")["best_batch"]
    assert f"number {order[0]}, quality {means['score'][order[0] - 1]:.3g}; best 8 of its 16" in heading


def test_what_a_metric_is_not_defined_for_is_left_out_and_said(pipeline: SimpleNamespace) -> None:
    nan = np.nan
    values = np.array([0.5, nan, 0.25, 0.75, nan, nan, 0.0, 1.0])
    seen = ended(fed(pipeline, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [nan, 8.0]], of_metric(pipeline, values)))
    assert (numbers(seen, "best"), numbers(seen, "worst")) == ([7, 3, 0, 2], [2, 0, 3, 7])
    assert {batch[1] for batch in seen.extreme_batches.values()} == {2}, "the last one's loss is not finite"
    assert numbers(seen, "not_finite") == [6]
    assert seen.counts == {"all": 8, "samples": 3, "batches": 2}
    assert "Worst 4 of 8 samples by quality, undefined for 3 (" in seen.pictures("valid, epoch 1")["worst_samples"][0]

    whole = of_metric(pipeline, np.arange(6.0))
    refuses = whole.metric.function
    quiet = lambda truth, *rest: refuses(truth, *rest) if len(truth) > 1 else nan  # noqa: E731 - as AUC: of many only
    whole.metric = pipeline.Metric("quality", quiet)
    seen = ended(fed(pipeline, [[1.0, 3.0, 2.0], [4.0, 6.0, 5.0]], whole))
    assert list(seen.pictures("valid, epoch 1")) == ["best_batch", "worst_batch"]
    assert numbers(seen, "worst_batch") == [1, 2, 0], "without scores the loss orders what is shown of a batch"
    told = records(seen, "worst_batch")[0].caption()
    assert "loss 1.5\n" in told and "nan" not in told
    assert seen.counts == {"all": 6, "samples": 6, "batches": 0}


def test_an_epoch_that_continues_says_so(pipeline: SimpleNamespace) -> None:
    callback = pipeline.Extremes(task_of(), *[pd.DataFrame({"id": ["a", "b"]})] * 2)
    config = pipeline.parse_experiment({"losses": LOSSES}, "test")
    run = SimpleNamespace(config=config, progress=pipeline.Progress(0, 40), epochs=1, metrics=[], heads=[])
    run.processes, run.samples = ALONE, two
    callback.on_run_start(run)
    positions = [(0, 0), (0, 1)]
    terms = {"one": torch.tensor([2.0, 1.0]), "two": torch.zeros(2)}
    batch = {"input_id": ["a", "b"], "input_row": torch.arange(2), "input_image": torch.zeros(2, 2, 2, 3)}
    result = {"loss": torch.tensor(1.5), "losses": {}, "sample_losses": terms, "outputs": {}}
    for stage in ("train", "valid"):
        callback.on_epoch_start(run, stage)
        callback.on_batch_end(run, stage, batch, result)
    for seen in callback.stages.values():
        seen.gather(ALONE, positions)
    heading, _ = callback.stages["train"].pictures("train, epoch 1")["worst_batch"]
    assert heading == "Worst of 1 batches: number 41, loss 1.5 (train, epoch 1; since it continued at batch 41)"
    heading, _ = callback.stages["valid"].pictures("valid, epoch 1")["worst_batch"]
    assert heading == "Worst of 1 batches: number 1, loss 1.5 (valid, epoch 1)"


def test_what_is_not_finite_wins_nothing_and_is_kept_apart(pipeline: SimpleNamespace) -> None:
    nan, inf = float("nan"), float("inf")
    seen = ended(fed(pipeline, [[1.0, nan, 3.0], [inf, -inf, nan], [2.0, 5.0, 0.0], [nan] * 9]))
    assert numbers(seen, "best") == [8, 0, 6, 2, 7]
    assert numbers(seen, "worst") == [7, 2, 6, 0, 8]
    assert numbers(seen, "not_finite") == [1, 3, 4, 5, 9, 10, 11, 12], "the first eight"
    assert {batch[1] for batch in seen.extreme_batches.values()} == {3}
    only = ended(fed(pipeline, [[nan, nan]]))
    assert list(only.pictures("valid, epoch 1")) == ["non_finite_samples"]


def test_memory_is_bounded(pipeline: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [[float(100 - batch)] * 64 for batch in range(50)]  # each batch is the best one so far
    seen = fed(pipeline, batches)
    size = 4 + 8 + 4 + 6 * 8  # output, partner, share, badness and loss of sample and batch, batch, number
    assert sum(value.untyped_storage().nbytes() for value in seen.kept.values()) <= 5 * 8 * (size + 4 * 8)
    assert len(seen.waiting) < pipeline.module.TOGETHER
    for name in ("best", "worst", "best_batch", "worst_batch"):
        for one in records(ended(seen), name):
            assert one.outputs["output_label"].untyped_storage().nbytes() == 4, "no view of what is beside it"
    monkeypatch.setattr(pipeline.module, "MOST_BYTES", 5 * 3 * size)
    assert len(ended(fed(pipeline, batches)).lists["best"]) == 3, "of huge samples fewer are kept"
    monkeypatch.setattr(pipeline.module, "MOST_BYTES", 1)
    assert len(ended(fed(pipeline, batches)).lists["worst"]) == 1


class Two(list[dict[str, Any]]):
    """A dataset of two samples."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index[1] if isinstance(index, tuple) else index)

    def starts(self) -> range:
        return range(2)


def two(stage: str) -> tuple[Two, list[tuple[int, int]]]:
    """What gives the two samples of a stage once more, and their positions."""
    image = np.zeros((2, 2, 3), np.float32)
    samples = [{"input_id": f"{stage[0]}{row}", "input_row": np.int64(row), "input_image": image} for row in range(2)]
    return Two(samples), [(0, 0), (0, 1)]


def test_both_stages_are_drawn_at_the_cadence(pipeline: SimpleNamespace) -> None:
    watch = pipeline.parse_experiment({}, "test").watch
    assert [epoch for epoch in range(12) if watch.draws(epoch, 12)] == [9, 11]
    never = watch.model_copy(update={"figure_epochs": 0})
    assert not any(never.draws(epoch, 12) for epoch in range(12))

    calls: list[tuple[list[str], str]] = []
    pictures: list[str] = []

    def draw(rows: pd.DataFrame, samples: Sequence[Any], heading: str) -> str:
        assert rows["id"].tolist() == [sample.id for sample in samples]
        calls.append((rows["id"].tolist(), heading))
        return heading

    tables = [pd.DataFrame({"id": ["t0", "t1"]}), pd.DataFrame({"id": ["v0", "v1"]})]
    maps = {"truth": np.zeros((2, 2), np.uint8)}
    words = lambda rows, samples: pd.DataFrame({"truth": rows["id"] + "!", "prediction": "?"})  # noqa: E731
    figures = SimpleNamespace(samples=draw, class_maps=lambda sample: {"mask": maps}, captions=words, sample_score="")
    task = SimpleNamespace(
        figures=figures, predictions=SimpleNamespace(looks_among=lambda rows: False), collate=collate
    )
    callback = pipeline.Extremes(task, *tables)
    config = pipeline.parse_experiment({"losses": LOSSES, "watch": {"figure_epochs": 3}}, "test")
    log: Callable[..., None] = lambda name, figure, step: pictures.append(name)  # noqa: E731
    run = SimpleNamespace(config=config, progress=pipeline.Progress(), epochs=4, fold="0", metrics=[])
    run.processes = ALONE
    run.heads = [pipeline.Head("mask", "mask", ("a", "b"))]
    exported: list[tuple[str, Any]] = []
    run.tracker = SimpleNamespace(
        figure=log,
        table=lambda name, table, images, step: exported.append((name, table.iloc[0].tolist())),
        overlay=lambda name, overlay, step: exported.append((name, overlay.classes)),
    )
    callback.on_run_start(run)
    for epoch in range(4):
        run.progress.epoch, run.samples = epoch, two
        for stage in ("train", "valid"):
            callback.on_epoch_start(run, stage)
            ids = [f"{stage[0]}0", f"{stage[0]}1"]
            batch = {"input_id": ids, "input_row": torch.arange(2), "input_image": torch.zeros(2, 2, 2, 3)}
            terms = {"one": torch.tensor([2.0, 1.0]), "two": torch.zeros(2)}
            result = {"loss": torch.tensor(1.5), "losses": {}, "sample_losses": terms, "outputs": {}}
            callback.on_batch_end(run, stage, batch, result)
        run.samples = None  # by then the sampler may stand in the next epoch
        for stage in ("train", "valid"):
            callback.on_epoch_end(run, pipeline.StageResult(stage, epoch, {}))
        assert callback.stages == {}, "nothing is held once it is drawn"
    one_epoch = [f"{kind}/{stage}" for stage in ("train", "valid") for kind in KINDS]
    assert sorted(pictures) == sorted(2 * one_epoch)
    assert exported[:2] == [
        ("worst_samples/train", ["t0", 2.0, "t0!", "?"]),
        ("worst_samples/train_masks/0", {1: "a", 2: "b"}),
    ]
    assert len(exported) == 2 * 2 * 3
    assert calls[0] == (["t1", "t0"], "Best 2 of 2 samples by loss (train, epoch 3)")
    chosen = {name: [one["input_id"][0] for one in ones] for name, ones in callback.explained.items()}
    drawn = np.argsort(-np.random.default_rng((config.seed, 3)).random(2))
    assert chosen == {"fixed": ["v0", "v1"], "random": [f"v{row}" for row in drawn], "worst": ["v0", "v1"]}

    run.config = pipeline.parse_experiment({"losses": LOSSES, "watch": {"extremes_by": "tow"}}, "test")
    run.metrics = [pipeline.Metric("accuracy", lambda *_: 0.0)]
    with pytest.raises(pipeline.UserError, match=r"watch\.extremes_by names 'tow'.* may be loss, one, two, accuracy$"):
        callback.on_run_start(run)
    task.predictions.looks_among = lambda rows: True
    run.config = pipeline.parse_experiment({"losses": LOSSES, "watch": {"extremes_by": "accuracy"}}, "test")
    with pytest.raises(pipeline.UserError, match=r"it may be loss, one, two$"):
        callback.on_run_start(run)


def near(image: np.ndarray, color: str, tolerance: float = 0.02) -> int:
    """How many pixels have a colour."""
    return int((np.abs(image / 255 - np.array(to_rgb(color))).max(axis=2) < tolerance).sum())


def samples_figure(heads: Sequence[Any], samples: Sequence[Any]) -> Any:
    return task_for(Competition(None), heads).figures.samples(pd.DataFrame(), samples, "heading")()


@pytest.mark.parametrize("kind", ["mask", "multiclass_mask"])
def test_masks_are_drawn_in_three_colours(pipeline: SimpleNamespace, kind: str) -> None:
    head = pipeline.Head("mask", kind, ("a", "b"))
    truth, said = np.zeros((2, 40, 40), np.uint8), np.zeros((2, 40, 40), bool)
    truth[0, :20], said[0, 10:30] = 1, True
    truth[:, :, 36:] = 255
    if kind == "mask":
        target, logits = truth, np.where(said, 9.0, -9.0)
    else:
        target = np.where(truth[0] == 255, 255, truth[0]).astype(np.uint8)
        logits = np.concatenate([np.where(said.any(axis=0), -9.0, 9.0)[None], np.where(said, 9.0, -9.0)])
    image = np.full((40, 40, 3), 200, np.uint8)
    targets = {"target_mask": torch.from_numpy(target)}
    outputs = {"output_mask": torch.from_numpy(logits).float()}
    sample = pipeline.SampleRecord("x" * 90, 0, image, targets, outputs, 0.5, ("partner", 0.3))
    assert (pipeline.planes_of(head, targets["target_mask"]) == truth).all()
    assert (pipeline.masks_of(head, sample) == said).all()
    assert pipeline.dice(truth, said) == pytest.approx(2 * 360 / (720 + 720))
    drawn = pipeline.pixels(samples_figure([head], [sample, sample]))
    overlay = 0.75 * np.array([to_rgb(color) for color in ("#56c98b", "#a8121f", "#ffe14d")]) + 0.25 * 0.6 * 200 / 255
    areas = [int((np.abs(drawn / 255 - color).max(axis=2) < 0.02).sum()) for color in overlay]
    assert min(areas) > 2000 and max(areas) < 1.2 * min(areas), "three bands of the same area"
    nothing = {"output_mask": torch.full_like(outputs["output_mask"], torch.nan)}
    broken = pipeline.SampleRecord("x", 0, image, targets, nothing, torch.nan)
    assert pipeline.pixels(samples_figure([head], [broken])).std() > 10


@pytest.mark.parametrize("kind", ["mask", "multiclass_mask"])
def test_a_correctly_empty_image_is_a_good_one(pipeline: SimpleNamespace, kind: str) -> None:
    """Dice calls it the worst: it has a smooth term of one pixel, and thousands of pixels that are nearly sure."""
    head, size = pipeline.Head("mask", kind, ("a", "b")), 32
    task = task_for(Competition(None), [head])
    generator = np.random.default_rng(0)
    truth, said = np.zeros((12, 2, size, size), np.uint8), np.zeros((12, 2, size, size), bool)
    for row in range(4, 12):  # the first four are empty, and said to be so
        truth[row, 0, : 4 + row], said[row, 0, 2 : 6 + row] = 1, True
        said[row, 1, -1, :row] = generator.random(row) < 0.5
    truth[11], truth[5, :, :, :3] = 0, 255  # nothing is there and something said; some is not known
    logits = torch.from_numpy(np.where(said, 3.0, -3.0)).float()
    if kind == "multiclass_mask":
        logits = torch.cat([torch.where(logits.amax(dim=1, keepdim=True) > 0, -3.0, 3.0), logits], dim=1)
        ignored = (truth == 255).any(axis=1)
        target = torch.from_numpy(
            np.where(ignored, 255, (truth == 1)[:, 0] * 1 + (truth == 1)[:, 1] * 2).astype(np.uint8)
        )
    else:
        target = torch.from_numpy(truth)
    losses = Dice(head)(logits, target)
    assert set(np.argsort(-losses.numpy())[:5]) >= {0, 1, 2, 3}, "by their loss they are the worst"
    config = pipeline.parse_experiment({"losses": [{"loss": "dice", "head": "mask", "name": "one"}]}, "test")
    rows = pd.DataFrame({"id": [f"id {row}" for row in range(12)]})
    seen = pipeline.StageSamples(pipeline.Ranking(task, config, [], rows), rows)
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    read = lambda index: {**sample(index), "input_image": image, "target_mask": target[index[1], None]}  # noqa: E731
    for part in (torch.arange(6), torch.arange(6, 12)):
        batch = {
            "input_id": [f"id {row}" for row in part.tolist()],
            "input_row": part,
            "input_image": torch.zeros(6, size, size, 3, dtype=torch.uint8),
            "target_mask": target[part],
        }
        loss = losses[part].mean()
        result = {"loss": loss, "losses": {"one": loss}, "sample_losses": {"one": losses[part]}}
        seen.add(batch, {**result, "outputs": {"output_mask": logits[part]}})
    ended(seen)
    of = {name: [seen.record(kept, read) for _, kept in seen.lists[name]] for name in ("best", "worst")}
    by_hand = [pipeline.dice(truth[row], said[row] & (truth[row] != 255)) for row in range(12)]
    found = {one.row: one.scored for name in of for one in of[name]}
    assert len(found) == 12 and all(name == "Dice" for name, _ in found.values())
    np.testing.assert_allclose([found[row][1] for row in range(12)], by_hand, atol=1e-6)
    best, worst = ([one.row for one in of[name]] for name in of)
    assert set(best[:4]) == {0, 1, 2, 3} and not {0, 1, 2, 3} & set(worst)
    assert worst[0] == 11, "what is seen where nothing is"
    assert [seen.extreme_batches[name][1] for name in ("best", "worst")] == [1, 2]
    heading, _ = seen.pictures("valid, epoch 1")["worst_samples"]
    assert heading == "Worst 8 of 12 samples by Dice, then loss (valid, epoch 1)"
    words = samples_figure([head], of["worst"][:1])
    assert any("Dice 0, loss" in text.get_text() for axes in words.axes for text in [axes.title, *axes.texts])
    asked = pipeline.parse_experiment({"losses": LOSSES, "watch": {"extremes_by": "loss"}}, "test")
    assert not pipeline.Ranking(task, asked, [], rows).score, "who asks for the loss gets it"
    labels = task_for(Competition(None), [pipeline.Head("label", "multiclass", ("a", "b"))])
    assert not pipeline.Ranking(labels, config, [], rows).score


def test_samples_are_scored_as_validation_scores_rows(pipeline: SimpleNamespace) -> None:
    """Truth and predictions of a batch go through the same metrics as whole tables do."""
    competition = Competition(None)
    task = task_for(competition, [pipeline.Head("label", "multiclass", ("a", "b", "c"))])
    rows = pd.DataFrame({"id": ["r", "s", "t", "u"], "label": ["a", "b", "c", np.nan]})
    logits = torch.tensor([[9.0, 0, 0], [0, 0, 9.0], [0, 0, 9.0], [9.0, 0, 0]])
    scores, whole = scored(ranked(pipeline, task, find_metric("accuracy")), rows, {}, {"output_label": logits})
    np.testing.assert_array_equal(scores, [1, 0, 1, np.nan])
    assert whole == pytest.approx(2 / 3), "a row without a truth does not count"
    auc = ranked(pipeline, task, find_metric("roc_auc"))
    scores, whole = scored(auc, rows.iloc[:3], {}, {"output_label": logits[:3]})
    assert np.isnan(scores).all() and np.isfinite(whole)

    sample = partial(pipeline.SampleRecord, "r", 0, np.zeros((4, 4, 3), np.uint8), {}, loss=1.0)
    samples = [sample(outputs={"output_label": each}) for each in logits]
    words = task.figures.captions(rows, samples)
    assert words["truth"].tolist() == ["a", "b", "c", "no truth"]
    assert words["prediction"].tolist() == ["a (100%)", "c (100%)", "c (100%)", "a (100%)"]

    heads = [pipeline.Head("mask", "mask", ("x", "y")), pipeline.Head("other", "multiclass_mask", ("z",))]
    task = task_for(competition, heads)
    truth = np.zeros((2, 2, 8, 8), np.uint8)
    truth[0, 0, :4], truth[1, :, :, :2], truth[1, 1, 7] = 1, 1, 255
    said = np.zeros((2, 2, 8, 8), bool)
    said[0, 0, 2:6], said[1, :, :, :4] = True, True
    background = np.where(said[:, :1], -9.0, 9.0)
    outputs = {
        "output_mask": torch.from_numpy(np.where(said, 9.0, -9.0)),
        "output_other": torch.from_numpy(np.concatenate([background, -background], axis=1)),
    }
    batch = {
        "input_image": torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        "target_mask": torch.from_numpy(truth),
        "target_other": torch.from_numpy(truth[:, 0]),
    }
    rows = pd.DataFrame({"id": ["r", "r"]})  # two windows of one image
    scores, whole = scored(ranked(pipeline, task, find_mask_metric("dice")), rows, batch, outputs)
    second = (4 / 6 + 2 * 14 / (28 + 14)) / 2  # 16 of 32, and 14 of 28 pixels without what is ignored
    each = np.array([[(0.5 + 1) / 2, 0.5], [second, 4 / 6]])
    np.testing.assert_allclose(scores, each.mean(axis=1))
    assert whole == pytest.approx(each.mean())
    objects, _ = scored(ranked(pipeline, task, find_mask_metric("f2_objects")), rows, batch, outputs)
    assert np.isfinite(objects).all()


def test_every_head_of_masks_is_drawn(pipeline: SimpleNamespace) -> None:
    """Each head has a panel of its own: one is right throughout, the other misses all, a third finds too much."""
    truth, nothing = np.ones((1, 30, 30), np.uint8), np.zeros((1, 30, 30), np.uint8)
    heads = [pipeline.Head(name, "mask", ("x",)) for name in ("right", "missing", "inventing")]
    targets = {"target_right": truth, "target_missing": truth, "target_inventing": nothing}
    outputs = {"output_right": 9.0, "output_missing": -9.0, "output_inventing": 9.0}
    sample = pipeline.SampleRecord(
        "a",
        0,
        np.full((30, 30, 3), 200, np.uint8),
        {key: torch.from_numpy(value) for key, value in targets.items()},
        {key: torch.full((1, 30, 30), value) for key, value in outputs.items()},
        0.5,
    )
    drawn = pipeline.pixels(samples_figure(heads, [sample] * 3))
    overlay = 0.75 * np.array([to_rgb(color) for color in ("#56c98b", "#a8121f", "#ffe14d")]) + 0.25 * 0.6 * 200 / 255
    areas = [int((np.abs(drawn / 255 - color).max(axis=2) < 0.02).sum()) for color in overlay]
    assert min(areas) > 10_000 and max(areas) < 1.1 * min(areas)

    from segmentation_tables import tables

    task = task_for(Competition(None), heads)
    maps = task.figures.class_maps(sample)
    assert {name: (int(each["truth"].sum()), int(each["prediction"].sum())) for name, each in maps.items()} == {
        "right": (900, 900),
        "missing": (900, 0),
        "inventing": (0, 900),
    }
    [told] = task.figures.captions(pd.DataFrame(), [sample]).to_dict("records")
    assert told == {
        "truth": "right: x 100%; missing: x 100%; inventing: nothing",
        "prediction": "right: x 100% (Dice 1.00); missing: nothing (Dice 0.00); inventing: x 100% (Dice 0.00)",
    }
    parts = [tables(head, [truth] * 2, [255 * truth] * 2) for head in heads]
    rows, predictions = (pd.concat(each, axis=1) for each in zip(*parts, strict=True))
    images = [np.zeros((30, 30, 3), np.uint8)] * 2
    figures = task.figures.examples(rows.reset_index(), images, predictions)
    assert list(figures) == ["right", "missing", "inventing"]


@pytest.mark.slow
def test_watching_changes_no_weight_and_a_flipped_label_is_found(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    table = project / "data/raw/train.csv"
    labels = pd.read_csv(table, dtype=str)
    flipped = np.random.default_rng(0).choice(len(labels), 20, replace=False)
    labels.loc[flipped, "label"] = [str((int(label) + 3) % 10) for label in labels.loc[flipped, "label"]]
    labels.to_csv(table, index=False)
    (project / "folds/folds.csv").unlink()
    expect(run_script(project, "make_folds.py", "--n-folds", "3"))
    mixup = "training.batch_transforms=[{name: mixup, params: {prob: 0.5}}]"
    for name, every in (("blind", 0), ("watched", 1)):
        settings = [mixup, f"watch.figure_epochs={every}", "training.epochs=2", "training.max_rows=400"]
        expect(run_script(project, "train.py", "small", *settings, "--as", name, "--fold", "0"))
    assert_same_outcome(outcome(project, "blind"), outcome(project, "watched"))
    assert not (project / "runs/blind/fold_0/figures/best_samples").exists()
    figures = project / "runs/watched/fold_0/figures"
    for name in (f"{kind}/{stage}" for kind in KINDS for stage in ("train", "valid")):
        drawn = np.asarray(Image.open(figures / f"{name}.png").convert("RGB"))
        frames = near(drawn, "#2a8a4a") if name.startswith("best") else near(drawn, "#c62f2f")
        assert frames > 1000, name
    expect(run_script(project, "train.py", "small", "training.epochs=6", "--as", "doubted", "--fold", "all"))
    said = expect(run_script(project, "evaluate.py", "doubted")).stdout
    suspects = pd.read_csv(project / "runs/doubted/suspects.csv", dtype={"id": str})
    assert list(suspects) == ["id", "head", "given", "suggested", "score", "fold", "probability"]
    wrong = set(labels["image_id"].iloc[flipped])
    assert suspects["id"][:40].isin(wrong).sum() >= 15
    assert suspects["score"].is_monotonic_decreasing
    assert f"the worst first: {', '.join(suspects['id'][:5])}; " in said and "runs/doubted/suspects.csv" in said
    assert near(np.asarray(Image.open(project / "runs/doubted/figures/suspects.png").convert("RGB")), "#c62f2f") > 5000


@pytest.mark.slow
def test_a_metric_ranks_the_same_in_one_process_and_in_two(renders: Renders, tmp_path: Path) -> None:
    """The worst held-out samples of one epoch are those that its out-of-fold table names."""
    project = demo_project(renders, tmp_path / "project")
    text = "extends: small\nmodel: {encoder: test_convnext}\noptimizer: {name: sgd, lr: 0.02}\n"  # no batch norm
    text += "training: {epochs: 1, batch_size: 50}\nwatch: {extremes_by: accuracy, figure_epochs: 1}\n"
    for name, processes in (("one", 1), ("two", 2)):
        (project / f"experiments/{name}.yaml").write_text(text)
        killed(project, 0, name, processes)
    folders = [project / f"runs/{name}/fold_0" for name in ("one", "two")]
    truth = pd.read_csv(project / "data/raw/train.csv", dtype=str).set_index("image_id")["label"]
    for folder in folders:
        shares = pd.read_parquet(folder / "oof.parquet").set_index("id").filter(like="label:")
        given = truth[shares.index]
        table = pd.DataFrame({"loss": -np.log([row[f"label:{given[name]}"] for name, row in shares.iterrows()])})
        table.index = shares.index
        table["accuracy"] = (shares.idxmax(axis=1).str.removeprefix("label:") == given).astype(float)
        worst = table.sort_values(["accuracy", "loss"], ascending=[True, False], kind="stable")[:8]
        found = pd.read_csv(folder / "tables/worst_samples/valid.csv", dtype={"id": str}, index_col="id")
        assert list(found.index) == list(worst.index)
        assert found["truth"].astype(str).tolist() == given[worst.index].tolist()
        said = shares.loc[worst.index].idxmax(axis=1).str.removeprefix("label:")
        assert found["prediction"].str.partition(" (")[0].tolist() == said.tolist()
        np.testing.assert_allclose(found[["accuracy", "loss"]], worst[["accuracy", "loss"]], rtol=1e-3)
    one, two = (pd.read_csv(folder / "tables/worst_samples/train.csv", dtype={"id": str}) for folder in folders)
    pd.testing.assert_frame_equal(one, two, rtol=1e-3)


@pytest.mark.slow
def test_masks_are_watched_in_a_training(renders: Renders, tmp_path: Path) -> None:
    project = renders.copy(tmp_path / "project", {"task": "segmentation", "trackers": []})
    for script in ("make_demo_data.py", "make_folds.py"):
        expect(run_script(project, script))
    small = "extends: demo\nmodel: {encoder: test_resnet}\ntraining: {epochs: 1, max_rows: 32}\nmachine: {workers: 0}\n"
    (project / "experiments/small.yaml").write_text(small)
    for name, every in (("blind", 0), ("watched", 1)):
        expect(run_script(project, "train.py", "small", f"watch.figure_epochs={every}", "--as", name, "--fold", "0"))
    assert_same_outcome(outcome(project, "blind"), outcome(project, "watched"))
    for name in (f"{kind}/{stage}" for kind in KINDS for stage in ("train", "valid")):
        drawn = Image.open(project / f"runs/watched/fold_0/figures/{name}.png")
        assert np.asarray(drawn.convert("RGB")).std() > 20, name
