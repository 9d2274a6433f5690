"""Every engine does the same training: the same events in the same order, the same numbers, states and weights.

The engine of docs/add-an-engine.md, as it stands on the page, is what the others are held against.
"""

import json
import re
import shutil
from itertools import permutations
from pathlib import Path

import pandas as pd
import pytest

from conformance import (
    ACCUMULATE,
    BATCHES,
    CLIP,
    EPOCHS,
    INTERRUPT,
    ONE_BATCH,
    SKIP,
    Runs,
    assert_same_numbers,
    assert_same_outcome,
    events,
    files_of,
    logged,
    order,
    promised,
    tensorboard,
    values,
)
from engines import BARE, ENGINES
from projects import Renders, run_script
from training import expect

pytestmark = pytest.mark.slow

engines = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(scope="module")
def runs(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(renders, tmp_path_factory.mktemp("engines"))


def test_the_experiment_is_what_it_has_to_be(runs: Runs) -> None:
    """The reference keeps the promise, with a window that is shorter and gradients that are cut."""
    lines = events(runs.run(BARE, "conform"))
    assert order(lines) == list(promised(EPOCHS, BATCHES, ACCUMULATE, BATCHES))
    before, after = (values(lines, event, "norm") for event in ("gradients_ready", "optimizer_step"))
    assert any(norm > 1.05 * CLIP for norm in before) and all(norm <= 1.001 * CLIP for norm in after)
    assert [min(norm, CLIP) for norm in before] == pytest.approx(after, rel=1e-3), "clipped between the two"
    rates = values(lines, "batch_end", "rates", "train")
    assert len(rates[0]) > 2 and rates[0] < rates[3] and len({tuple(rate) for rate in rates}) >= 5


@engines
def test_the_same_events_and_numbers(runs: Runs, engine: str) -> None:
    run = runs.run(engine, "conform")
    assert json.loads((run / "run.json").read_text())["engine"] == engine
    found, expected = events(run), events(runs.run(BARE, "conform"))
    assert order(found) == order(expected)
    assert_same_numbers(found, expected)
    for stage in ("train", "valid"):
        assert set(values(found, "batch_start", "training", stage)) == {stage == "train"}


@engines
def test_the_same_logs_files_and_weights(runs: Runs, engine: str) -> None:
    run, expected = runs.run(engine, "conform"), runs.run(BARE, "conform")
    assert_same_outcome(run, expected)
    pd.testing.assert_frame_equal(logged(run), logged(expected), check_exact=False, rtol=1e-4, atol=1e-5)
    assert tensorboard(run) == tensorboard(expected)
    words = [re.findall(r"[A-Za-z]{2,}", "".join(runs.said[name, "conform"])) for name in (engine, BARE)]
    assert words[0] == words[1], "a framework says nothing of its own"
    assert files_of(run) == files_of(expected), "and leaves no files"
    known = {path.name for path in runs.project(BARE).iterdir()}
    assert {path.name for path in runs.project(engine).iterdir()} == known


def predicted(project: Path, name: str) -> pd.DataFrame:
    table = project / f"runs/{name}/test.parquet"
    if not table.exists():
        expect(run_script(project, "predict.py", name, "--fold", "0"))
    return pd.read_parquet(table)


def check_prediction(runs: Runs, trained_by: str, under: str) -> None:
    """The weights of one engine predict under another."""
    source, target = runs.run(trained_by, "conform"), runs.project(under) / f"runs/from-{trained_by}"
    if not target.exists():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("test.parquet"))
    tables = [predicted(path.parents[1], path.name) for path in (target, source)]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=0, atol=1e-6)


def check_continuing(runs: Runs, whole: str, cut: str, begun_by: str, by: str, settings: tuple[str, ...]) -> None:
    """A run cut off under one engine goes on under another to the end of the unbroken one."""
    left = runs.run(begun_by, cut, *settings, status=130)
    name = f"{cut}-{begun_by}"
    target = runs.project(by) / "runs" / name
    shutil.copytree(left, target)
    source = runs.project(begun_by) / f"experiments/{cut}.yaml"
    shutil.copy(source, runs.project(by) / f"experiments/{name}.yaml")
    result = expect(run_script(runs.project(by), "train.py", name, "--fold", "0"))
    assert f"note: the run '{name}' was begun with {begun_by}, and {by} goes on with it" in result.stdout
    assert "going on at epoch 2, batch 3" in result.stdout
    expected = runs.run(BARE, whole)
    assert_same_outcome(target, expected)
    assert_same_numbers(events(target), events(expected))


@engines
def test_weights_predict_under_another_engine(runs: Runs, engine: str) -> None:
    check_prediction(runs, engine, BARE)
    check_prediction(runs, BARE, engine)


@engines
def test_a_run_goes_on_under_another_engine(runs: Runs, engine: str) -> None:
    check_continuing(runs, "conform", "cut", engine, BARE, (f"callbacks=[{INTERRUPT}]",))
    check_continuing(runs, "conform", "cut", BARE, engine, (f"callbacks=[{INTERRUPT}]",))


@engines
def test_training_on_everything(runs: Runs, engine: str) -> None:
    settings = ("training.epochs=1", "averaging.ema_decay=null")
    found, expected = (runs.run(name, "everyone", *settings, fold="full") for name in (engine, BARE))
    lines = events(found, "full")
    assert order(lines) == list(promised(1, BATCHES, ACCUMULATE, 0))
    assert_same_numbers(lines, events(expected, "full"))
    assert_same_outcome(found, expected, "full")


@engines
def test_an_epoch_of_one_batch(runs: Runs, engine: str) -> None:
    found, expected = (runs.run(name, "one", *ONE_BATCH, "training.epochs=3") for name in (engine, BARE))
    assert order(events(found)) == list(promised(3, 1, ACCUMULATE, 1))
    assert_same_numbers(events(found), events(expected))
    assert_same_outcome(found, expected)


@engines
def test_skipped_steps_change_no_weight(runs: Runs, engine: str) -> None:
    found, expected = (runs.run(name, "skip", SKIP) for name in (engine, BARE))
    unchanged = json.loads((found / "fold_0/unchanged.json").read_text())
    assert unchanged == {str(step): step <= 3 for step in range(7)}
    ready = [line for line in events(found) if line["event"] != "optimizer_step"]
    assert_same_numbers(ready, [line for line in events(expected) if line["event"] != "optimizer_step"])
    assert_same_outcome(found, expected)


@engines
@pytest.mark.parametrize(
    ("at", "kind"), [("train", "own"), ("gradients", "ctrl_c"), ("valid", "user"), ("epoch", "own")]
)
def test_an_error_leaves_as_it_is(runs: Runs, engine: str, at: str, kind: str) -> None:
    project, name = runs.project(engine), f"raise-{at}"
    callback = f"callbacks=[{{name: Raise, params: {{at: {at}, kind: {kind}}}}}]"
    result = run_script(project, "train.py", "conform", callback, *ONE_BATCH, "--as", name, "--fold", "0")
    assert result.status == {"own": 1, "ctrl_c": 130, "user": 2}[kind], result.stderr
    found = json.loads((project / f"runs/raised-{name}.json").read_text())
    assert found == {"raised": True, "same": True}


@pytest.mark.full
@pytest.mark.parametrize(("begun_by", "by"), list(permutations((BARE, *ENGINES), 2)))
def test_every_engine_takes_up_what_every_other_began(runs: Runs, begun_by: str, by: str) -> None:
    """With a balanced sampler, plateau, SWA, frozen parts and interventions; and predicts with its weights."""
    check_continuing(runs, "whole", "everything", begun_by, by, ())
    check_prediction(runs, begun_by, by)
