"""The whole path on a small competition: train, continue, evaluate, predict, submit."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from drawn import NAMES
from pipeline.submission.command import check_file
from small_project import SmallProject
from toolkit.errors import UserError
from toolkit.files import read_json, read_yaml


def metrics_of(fold: Path) -> pd.DataFrame:
    """What was logged, without the seconds it took."""
    logged = pd.read_csv(fold / "metrics.csv")
    return logged.loc[:, ~logged.columns.str.startswith("time/")]


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file below `folder`, with the time it was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_fold_predicts_what_it_held_out(trained: SmallProject) -> None:
    folds = pd.read_csv(trained.root / "folds" / "folds.csv", dtype={"id": str})
    for fold in (0, 1):
        oof = pd.read_parquet(trained.project.run("small") / f"fold_{fold}" / "oof.parquet")
        assert sorted(oof["id"]) == sorted(folds["id"][folds["fold"] == fold])
        assert oof.notna().all(axis=None) and len(oof.columns) > 2


def test_it_learns(trained: SmallProject) -> None:
    trained.evaluate("small")
    run = trained.project.run("small")
    score = read_json(run / "cv.json")
    assert score["metric"] == trained.competition.settings.metric
    assert score["rows"] == 60
    assert score["score"] > max(0.8, score["constant"][score["metric"]] + 0.3)
    oof = pd.read_parquet(run / "oof.parquet")
    assert sorted(oof["id"]) == sorted(trained.table("train.csv")["picture"])


def test_a_loss_of_ones_own_trains(trained: SmallProject) -> None:
    run = trained.project.run("small")
    assert read_yaml(run / "config.yaml")["losses"][0]["loss"] == {"name": "focal", "params": {"gamma": 1.0}}
    means = metrics_of(run / "fold_0")["train/shape_focal"].dropna()
    assert list(means) == sorted(means, reverse=True)


def test_an_incomplete_run_is_not_scored_as_a_whole(trained: SmallProject) -> None:
    (trained.project.run("small") / "fold_1" / "oof.parquet").unlink()
    with pytest.raises(UserError, match="fold 1 of 'small' has no out-of-fold predictions"):
        trained.evaluate("small")
    trained.evaluate("small", fold="0")


def test_a_finished_run_is_left_alone(trained: SmallProject, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(trained.project.runs)
    trained.train("small")
    assert "nothing to do" in capsys.readouterr().out
    assert contents(trained.project.runs) == before


def test_a_run_that_was_cut_off_continues_bit_for_bit(trained: SmallProject) -> None:
    """Cut off twice inside an epoch of six batches, it ends with the same bytes as the run that never was."""
    (trained.root / "experiments" / "unlucky.yaml").write_text(
        "extends: small\n"
        "callbacks: [{name: power_cut, params: {at: [2, 9]}}]\n"
        "checkpoints: {save_minutes: 1e-9}\n"  # so it is saved after every batch
    )
    for step in (2, 9):
        with pytest.raises(OSError, match=f"power cut at step {step}"):
            trained.train("unlucky", fold="0")
    fold = trained.train("unlucky", fold="0") / "fold_0"
    unbroken = trained.project.run("small") / "fold_0"
    assert (fold / "oof.parquet").read_bytes() == (unbroken / "oof.parquet").read_bytes()
    weights = [load_file(folder / "best.safetensors") for folder in (fold, unbroken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    pd.testing.assert_frame_equal(metrics_of(fold), metrics_of(unbroken), check_exact=True)
    assert (fold / "power_cut_9").read_text() == "9 batches were seen\n"  # the callback's own memory came back


def test_a_changed_setting_stops_with_the_difference(trained: SmallProject) -> None:
    before = contents(trained.project.runs)
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.02 -> 0\.1"):
        trained.train("small", "optimizer.lr=0.1")
    assert contents(trained.project.runs) == before
    trained.train("small", "machine.valid_batch_size=3")  # where it runs is no change


def test_changed_code_stops_with_the_difference(trained: SmallProject, capsys: pytest.CaptureFixture[str]) -> None:
    code = trained.root / "src" / "competition" / "augmentations.py"
    code.write_text(code.read_text().replace("HorizontalFlip", "VerticalFlip"))
    with pytest.raises(UserError, match=r"competition/augmentations\.py"):
        trained.train("small")
    assert "VerticalFlip" in capsys.readouterr().out


def test_a_restart_on_everything(trained: SmallProject) -> None:
    """`--restart --fold full`: the old run is set aside, nothing is held out, and the one model predicts."""
    run = trained.train("small", "training.epochs=1", fold="full", restart=True)
    assert (trained.project.runs / "set_aside" / "small.1" / "fold_1" / "oof.parquet").is_file()
    assert read_yaml(run / "config.yaml")["training"]["epochs"] == 1
    assert not list(run.rglob("oof.parquet"))
    assert len(trained.predict("small")) == 12


def test_prediction_uses_the_code_of_the_run(trained: SmallProject) -> None:
    first = trained.predict("small")
    assert list(first.index) == list(trained.table("test.csv")["picture"])
    for path in (trained.root / "src" / "competition").glob("*.py"):
        path.write_text("raise RuntimeError('this code has moved on')\n")
    pd.testing.assert_frame_equal(trained.predict("small"), first, check_exact=True)


def test_a_submission_is_filled_by_id(trained: SmallProject) -> None:
    """The sample has the test rows in another order; each of them gets its own answer."""
    trained.predict("small")
    written = trained.submit("small")
    sample = trained.table("sample_submission.csv")
    assert list(written["picture"]) == list(sample["picture"]) != list(trained.table("test.csv")["picture"])
    answers = trained.table("answers.csv").set_index("picture")["shape"]
    assert (answers[written["picture"]].to_numpy() == written["shape"].to_numpy()).mean() > 0.8


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param(lambda table: table[1:], "1 of 12 missing", id="lost row"),
        pytest.param(lambda table: pd.concat([table, table[:1]]), "1 more than once", id="row twice"),
        pytest.param(
            lambda table: table.assign(picture=table["picture"].astype(int)), "spelled otherwise", id="numbers"
        ),
        pytest.param(
            lambda table: table.assign(shape=NAMES["square"] + "s"),
            f"did you mean '{NAMES['square']}'",
            id="no such class",
        ),
        pytest.param(lambda table: table.assign(shape=""), "blank", id="empty"),
        pytest.param(lambda table: table.rename(columns={"shape": "label"}), "'shape'", id="other column"),
    ],
)
def test_a_bad_submission_is_refused(
    project: SmallProject, change: Callable[[pd.DataFrame], pd.DataFrame], fault: str
) -> None:
    path = project.root / "mine.csv"
    change(project.table("sample_submission.csv")).to_csv(path, index=False)
    with pytest.raises(UserError, match=fault):
        check_file(project.project, None, path, project.competition)
