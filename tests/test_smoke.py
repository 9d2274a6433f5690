"""The whole path on the default answers: what a newcomer sees, and what the files hold."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, log_loss

from engines import ENGINES
from projects import Renders, run_process, run_script
from training import demo_project, expect

pytestmark = pytest.mark.slow
FOLDS = 2


@pytest.fixture(scope="module")
def walked(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default project after the commands of its `make demo`; training runs as a user starts it."""
    project = renders.copy(tmp_path_factory.mktemp("smoke") / "demo")
    for script in ("make_demo_data.py", "check_data.py"):
        expect(run_script(project, script))
    expect(run_script(project, "make_folds.py", "--n-folds", str(FOLDS)))
    trained = expect(run_process(project, "train.py", "demo", timeout=900))
    (project / "train.log").write_text(trained.stdout)
    for script in ("evaluate.py", "predict.py", "submit.py", "report.py"):
        (project / f"{script}.log").write_text(expect(run_script(project, script, "demo")).stdout)
    return project


@pytest.fixture
def project(walked: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(walked, tmp_path / "demo", symlinks=True))


def labels(project: Path) -> pd.Series:
    return pd.read_csv(project / "data/raw/train.csv", dtype=str).set_index("image_id")["label"]


def test_out_of_fold_is_complete_unique_and_good(walked: Path) -> None:
    oof = pd.read_parquet(walked / "runs/demo/oof.parquet").set_index("id")
    truth = labels(walked)
    assert oof.index.is_unique and set(oof.index) == set(truth.index)
    probabilities = oof[[f"label:{digit}" for digit in range(10)]].to_numpy()
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    accuracy = accuracy_score(truth.loc[oof.index].astype(int), probabilities.argmax(axis=1))
    assert accuracy >= 0.96
    cv = json.loads((walked / "runs/demo/cv.json").read_text())
    assert cv["score"] == pytest.approx(accuracy)
    assert cv["overall"]["log_loss"] == pytest.approx(
        log_loss(truth.loc[oof.index].astype(int), probabilities), rel=1e-4
    )
    assert cv["constant"]["accuracy"] < 0.15 and cv["constant"]["log_loss"] > 2.2
    assert f"{cv['constant']['log_loss']:.4f}" in (walked / "evaluate.py.log").read_text()
    assert cv["mean"] == pytest.approx(np.mean([fold["accuracy"] for fold in cv["folds"].values()]))


def test_each_fold_predicts_what_it_held_out(walked: Path) -> None:
    folds = pd.read_csv(walked / "folds/folds.csv", dtype={"id": str}).set_index("id")["fold"]
    for fold in range(FOLDS):
        oof = pd.read_parquet(walked / f"runs/demo/fold_{fold}/oof.parquet")
        assert set(oof["id"]) == set(folds.index[folds == fold])


def test_submission_scores_as_the_folds_promise(walked: Path) -> None:
    submission = pd.read_csv(walked / "submissions/demo.csv", dtype=str)
    sample = pd.read_csv(walked / "data/raw/sample_submission.csv", dtype=str)
    assert list(submission.columns) == list(sample.columns)
    assert submission["image_id"].tolist() == sample["image_id"].tolist()
    answers = pd.read_csv(walked / "data/raw/.answers.csv", dtype=str).set_index("image_id")["label"]
    leaderboard = accuracy_score(answers.loc[submission["image_id"]], submission["label"])
    score = json.loads((walked / "runs/demo/cv.json").read_text())["score"]
    assert abs(leaderboard - score) <= 0.03
    assert f"{leaderboard:.4f}" in (walked / "submit.py.log").read_text()
    assert f"{leaderboard:.4f}" in (walked / "report.py.log").read_text()


def test_what_a_person_reads(walked: Path) -> None:
    log = (walked / "train.log").read_text()
    assert "\x1b" not in log, "colours are off when piped"
    assert "input_image" in log and "uint8" in log, "the dict contract is printed"
    assert log.count("best epoch") == FOLDS and f"fold {FOLDS - 1}" in log
    assert "out of fold" in (walked / "evaluate.py.log").read_text()
    report = (walked / "report.py.log").read_text()
    assert "submissions/demo.csv" in report and "figures" in report
    for picture in ("confusion_matrix/label", "learning_curves", "samples"):
        assert (walked / f"runs/demo/fold_0/figures/{picture}.png").stat().st_size > 5000
    assert (walked / "runs/demo/figures/confusion_matrix/label.png").is_file()


def test_a_finished_run_is_left_alone(project: Path) -> None:
    before = (project / "runs/demo/fold_0/best.safetensors").stat().st_mtime_ns
    result = expect(run_script(project, "train.py", "demo"))
    assert result.stdout.count("nothing to do") == FOLDS
    assert (project / "runs/demo/fold_0/best.safetensors").stat().st_mtime_ns == before
    assert expect(run_script(project, "train.py", "demo", "machine.workers=1")).stdout.count("nothing to do") == FOLDS


def test_a_changed_config_stops_with_the_difference(project: Path) -> None:
    result = expect(run_script(project, "train.py", "demo", "optimizer.lr=0.1"), 2)
    assert "optimizer.lr: 0.004 -> 0.1" in result.last_line and "--restart" in result.last_line


def test_changed_code_stops_training_and_not_prediction(project: Path) -> None:
    path = project / "src/competition/augmentations.py"
    path.write_text(path.read_text().replace("A.Resize(*size", "A.Resize(7, 7"))
    result = expect(run_script(project, "train.py", "demo"), 2)
    assert "competition/augmentations.py" in result.last_line
    assert "-    resize = A.Resize(*size" in result.stdout and "+    resize = A.Resize(7, 7" in result.stdout
    before = pd.read_parquet(project / "runs/demo/test.parquet")
    expect(run_script(project, "predict.py", "demo"))
    pd.testing.assert_frame_equal(before, pd.read_parquet(project / "runs/demo/test.parquet"))


def test_restart_sets_the_old_run_aside(project: Path) -> None:
    args = ("demo", "training.epochs=1", "machine.workers=0", "--fold", "0", "--restart")
    expect(run_script(project, "train.py", *args))
    assert (project / "runs/set_aside/demo.1/cv.json").is_file()
    assert json.loads((project / "runs/demo/fold_0/fold.json").read_text())["epochs"] == 1


def test_prediction_needs_neither_framework_nor_tracker(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("lightning", "wandb", "tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("lightning", "wandb", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    (project / "runs/demo/test.parquet").unlink()
    expect(run_script(project, "predict.py", "demo"))
    expect(run_script(project, "submit.py", "demo"))
    assert (project / "runs/demo/test.parquet").is_file()
    without = expect(run_script(project, "train.py", "demo", "--restart"), 2)
    assert "'lightning' is not installed" in without.last_line, "training does need the framework"


def test_each_test_image_is_decoded_once_for_all_folds(project: Path) -> None:
    counter = project / "src/toolkit/images/readers.py"
    source = counter.read_text()
    counter.write_text(
        source + "\n\n_real = image\n\n\ndef image(*args, **kwargs):\n    _COUNT.append(1)\n"
        "    return _real(*args, **kwargs)\n\n\n_COUNT: list[int] = []\nimport atexit\n"
    )
    script = project / "scripts" / "predict.py"
    script.write_text(
        script.read_text().replace(
            "    run_script(main)",
            "    main()\n    from toolkit.images import readers\n    print('decoded', len(readers._COUNT))",
        )
    )
    result = expect(run_script(project, "predict.py", "demo", "--workers", "0"))
    assert "decoded 500" in result.stdout


def test_an_incomplete_run_is_scored_by_fold(project: Path) -> None:
    shutil.rmtree(project / "runs/demo/fold_1")
    for script in ("evaluate.py", "predict.py"):
        assert "1 of 2 folds" in expect(run_script(project, script, "demo")).stdout
    result = expect(run_script(project, "evaluate.py", "demo", "--fold", "0"))
    assert "fold 0" in result.stdout
    expect(run_script(project, "predict.py", "demo", "--fold", "0"))


def test_a_row_predicted_twice_is_refused(project: Path) -> None:
    path = project / "runs/demo/fold_1/oof.parquet"
    table = pd.read_parquet(path)
    pd.concat([table, table.iloc[:1]]).to_parquet(path)
    assert "1 predicted twice" in expect(run_script(project, "evaluate.py", "demo"), 2).last_line
    table.iloc[1:].to_parquet(path)
    assert "1 not predicted" in expect(run_script(project, "evaluate.py", "demo"), 2).last_line


def test_folds_of_another_making_are_refused(project: Path) -> None:
    expect(run_script(project, "make_folds.py", "--seed", "5", "--force", "--no-leak-report"))
    assert "folds" in expect(run_script(project, "train.py", "demo"), 2).last_line
    assert "restore it" in expect(run_script(project, "evaluate.py", "demo"), 2).last_line


def test_damaged_weights_are_named(project: Path) -> None:
    path = project / "runs/demo/fold_1/best.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert "fold_1/best.safetensors is damaged" in expect(run_script(project, "predict.py", "demo"), 2).last_line


def test_a_corrected_label_warns_and_is_recorded(project: Path) -> None:
    path = project / "data/raw/train.csv"
    table = pd.read_csv(path, dtype=str)
    before = table.loc[3, "label"]
    table.loc[3, "label"] = "7" if before != "7" else "1"
    table.to_csv(path, index=False)
    arguments = ("training.epochs=1", "model.encoder=test_resnet", "machine.workers=0", "--as", "corrected")
    result = expect(run_script(project, "train.py", "demo", *arguments, "--fold", "0"))
    assert (
        f"warning: 1 labels in 'label' differ from those in folds/folds.csv ({table.loc[3, 'image_id']}"
        in result.stdout
    )
    assert table.loc[3, "image_id"] in (project / "runs/corrected/fold_0/fold.json").read_text()


def out_of_fold_accuracy(project: Path, table: Path) -> float:
    oof = pd.read_parquet(table).set_index("id")
    predicted = oof[[f"label:{digit}" for digit in range(10)]].to_numpy().argmax(axis=1)
    return float(accuracy_score(labels(project).loc[oof.index].astype(int), predicted))


@pytest.mark.full
@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "lightning"])
def test_the_whole_path_under_another_framework(engine: str, renders: Renders, tmp_path: Path) -> None:
    """That each trains to the same numbers is for tests/test_engines.py."""
    project = demo_project(renders, tmp_path / "project", engine)
    for script in ("train.py", "evaluate.py", "predict.py", "submit.py", "report.py"):
        expect(run_script(project, script, "demo"))
    assert out_of_fold_accuracy(project, project / "runs/demo/oof.parquet") >= 0.96
    assert (project / "submissions/demo.csv").is_file()
