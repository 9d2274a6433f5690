"""`python -m benchmarks --quick`: it runs and writes what it promises. No time is asserted."""

import itertools
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from engines import ENGINES
from projects import ROOT, imported, source


@pytest.mark.slow
def test_quick_run_writes_a_table_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    for name in ("WANDB_MODE", "MPLBACKEND"):  # the run sets them; give them back afterwards
        monkeypatch.setenv(name, "")
    from benchmarks.__main__ import main

    groups = ["copy", "collate", "gather", "rle"]
    assert main(["--quick", *(f"--only={group}" for group in groups), "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "benchmarks.json").read_text(encoding="utf-8"))
    assert {"cores", "load", "torch_threads", "packages", "python"} <= set(report["machine"])
    assert report["machine"]["quick"] is True
    assert {row["group"] for row in report["rows"]} == set(groups)
    for row in report["rows"]:
        assert row["ours"] > 0
        assert row["ours_spread"][0] <= row["ours"] <= row["ours_spread"][1]
        assert (row["aim"] is None) == (row["met"] is None)
        if row["peer"] is None:
            assert row["ratio"] is None
        else:
            assert row["ratio_spread"][0] <= row["ratio"] <= row["ratio_spread"][1]
    text = (tmp_path / "benchmarks.txt").read_text(encoding="utf-8")
    assert all(row["name"] in text for row in report["rows"])


@pytest.mark.slow
def test_every_engine_is_held_against_the_bare_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setenv("WANDB_MODE", "offline")
    from benchmarks.engine_step import COST, cost_row, run_variant
    from benchmarks.measure import Effort
    from benchmarks.workplace import ENGINES as MEASURED
    from benchmarks.workplace import Workplace

    assert MEASURED == ENGINES
    place = Workplace(tmp_path)
    for engine in ENGINES:
        own = place.with_engine(engine)
        with own.pipeline():
            from pipeline import engine as used
        assert engine == used.NAME
        turns = run_variant(own, COST, batch_size=8, pairs=3)
        # Not every engine asks for the end of the batches, which is when the last pair is counted.
        assert len(turns.ours) == len(turns.peer) in (2, 3), engine
    assert cost_row(place, Effort(step_pairs=1)).name == "lightning's own cost of a step"


def test_different_work_is_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.engine_step import require_same_work

    (tmp_path / "metrics.csv").write_text("step,batch/loss\n1,2.0\n2,\n11,1.5\n21,1.25\n31,1.0\n")
    require_same_work(tmp_path / "metrics.csv", [torch.tensor(value) for value in (2.0, 1.5, 1.25, 9.0)])
    with pytest.raises(RuntimeError, match=r"part at step 10: loss 1\.5 and 1\.25"):
        require_same_work(tmp_path / "metrics.csv", [torch.tensor(value) for value in (2.0, 1.25, 1.25)])


def test_aims_are_judged_by_the_median_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.measure import Aim, alone, beside, in_turns

    row = beside("g", "n", "p", "ms", [2.0, 4.0, 60.0], [1.0, 2.0, 20.0], Aim("at most", 2.0))
    assert (row.ratio, row.ratio_spread, row.met) == (2.0, (2.0, 3.0), True)
    assert alone("g", "n", "s", [1.0, 3.0, 2.0], Aim("at least", 2.5)).met is False
    calls: list[str] = []

    def call(name: str) -> float:
        calls.append(name)
        return 1.0

    values = in_turns({name: partial(call, name) for name in "ab"}, 2)
    assert (calls, values) == (["a", "b", "b", "a"], {"a": [1.0, 1.0], "b": [1.0, 1.0]})


def test_differences_of_two_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.same_numbers import differences

    one = {"metrics": pd.DataFrame({"loss": [1.0, 0.5], "step": [0, 1]}), "submission": pd.DataFrame({"id": ["a"]})}
    same = {name: table.copy() for name, table in one.items()}
    assert dict(differences(one, same)) == dict.fromkeys(one, "equal to the bit")
    same["metrics"].loc[1, "loss"] = 0.5 + 1e-9
    same["submission"] = pd.DataFrame({"id": ["a", "b"]})
    told = dict(differences(one, same))
    assert "by at most 1e-09: loss" in told["metrics"] and "1 and 2 rows" in told["submission"]


def test_copies_planted_in_a_drawn_set_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.drawn_sets import SETS, as_uint8
    from benchmarks.near_copies import MANIPULATIONS, measure

    generator = np.random.default_rng(0)
    images = list(SETS["half-ellipse-8"](generator))
    planted = {name: MANIPULATIONS[name] for name in ("jpeg 50", "turn by 90")}
    planted["another"] = lambda image, generator: as_uint8(255 * generator.random(image.shape))
    with imported(source().parent):
        found = measure(images, planted, 2, generator)
        assert (found.drawn, found.false_alarms) == (60, 0)
        assert found.recall == {"jpeg 50": 1, "turn by 90": 1, "another": 0}
        copied = [*images, MANIPULATIONS["jpeg 70"](images[0], generator)]
        assert measure(copied, {}, 0, generator).false_alarms == 1


def test_drawn_sets_differ_and_manipulations_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.drawn_sets import SETS
    from benchmarks.near_copies import MANIPULATIONS

    generator = np.random.default_rng(0)
    for name, draw in SETS.items():
        image, other = itertools.islice(draw(generator), 2)
        assert not np.array_equal(image, other), name
        for manipulation, manipulate in MANIPULATIONS.items():
            copy = manipulate(image, generator)
            assert (copy.dtype, copy.shape[2:]) == (np.uint8, image.shape[2:]), (name, manipulation)
            assert not np.array_equal(copy, image), (name, manipulation)


@pytest.mark.slow
def test_waits_of_a_step_are_counted_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setenv("WANDB_MODE", "offline")
    from benchmarks import gpu
    from benchmarks.measure import Effort
    from benchmarks.workplace import Workplace

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-compiler")
    assert gpu.measure(Workplace(tmp_path), Effort.quick()) == []
    assert "no GPU here, and no C++ compiler" in capsys.readouterr().out
    monkeypatch.delenv("CXX")
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler here")
    rows = gpu.measure(Workplace(tmp_path), Effort.quick())
    assert "there is no GPU here" in capsys.readouterr().out
    assert len(rows) == 4 * len(gpu.PRETENDED)
    bare = [row for row in rows if "a bare step" in row.name]
    assert len(bare) == len(rows) // 2 and all(row.ours == 0 for row in bare)
