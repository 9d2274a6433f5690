"""The examples, walked as their READMEs say, and graded by code that is not ours."""

import difflib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.spatial.distance import directed_hausdorff
from sklearn.metrics import log_loss

from projects import ROOT, Renders, imported, run_script
from training import expect

pytestmark = pytest.mark.slow


def test_state_farm_by_answers_alone(renders: Renders, tmp_path: Path) -> None:
    example = ROOT / "examples" / "state-farm"
    project = renders.copy(tmp_path / "project", yaml.safe_load((example / "answers.yml").read_text()))
    raw = project / "data/raw"
    subprocess.run([sys.executable, str(example / "make_data.py"), str(raw)], check=True, timeout=60)
    assert "no leaks" in expect(run_script(project, "make_folds.py", "--n-folds", "4")).stdout
    expect(run_script(project, "check_data.py"))
    settings = (
        "image.size=48",
        "model.encoder=test_resnet",
        "training.epochs=10",
        "machine.workers=0",
        "watch.figure_epochs=0",
    )
    expect(run_script(project, "train.py", "demo", *settings, "--as", "first"))
    for script in ("evaluate.py", "predict.py", "submit.py"):
        expect(run_script(project, script, "first"))
    folds = pd.read_csv(project / "folds/folds.csv")
    assert folds.groupby("group")["fold"].nunique().max() == 1, "a driver crosses folds"
    submission = pd.read_csv(project / "submissions/first.csv").set_index("img")
    answers = pd.read_csv(raw / "hidden_answers.csv").set_index("img")["classname"]
    classes = [f"c{number}" for number in range(10)]
    assert list(submission.columns) == classes
    assert list(submission.index) == list(answers.index), "the sample's order"
    assert np.abs(submission.sum(axis=1) - 1).max() < 1e-5
    score = log_loss(answers, submission[classes].to_numpy(), labels=classes)
    assert score < 0.5 * np.log(10), "far better than the constant prediction of the sample"


UW = ROOT / "examples" / "uw-madison"
Sizes = dict[str, tuple[int, int]]


def test_uw_madison_by_four_edited_files(renders: Renders, tmp_path: Path) -> None:
    project = uw_project(renders, tmp_path / "project")
    raw = project / "data/raw"
    subprocess.run([sys.executable, str(UW / "make_data.py"), str(raw)], check=True, timeout=60)
    said = expect(run_script(project, "check_data.py")).stdout
    assert "dark images" in said and "the data can be trained on" in said
    assert "no leaks" in expect(run_script(project, "make_folds.py", "--n-folds", "2")).stdout
    folds = pd.read_csv(project / "folds/folds.csv")
    assert folds["group"].nunique() == 10 and folds.groupby("group")["fold"].nunique().max() == 1
    settings = ("image.size=96", "image.reader.params.high=700", "training.batch_size=8", "model.encoder=test_resnet")
    small = ("training.epochs=5", "machine.workers=0", "watch.figure_epochs=0", "--as", "first", "--fold", "all")
    expect(run_script(project, "train.py", "demo", *settings, *small))
    assert "dark images" not in expect(run_script(project, "check_data.py", "--experiment", "first")).stdout
    for script in ("evaluate.py", "predict.py"):
        expect(run_script(project, script, "first"))
    assert "note" not in expect(run_script(project, "submit.py", "first")).stdout
    sizes, truth = uw_sizes(raw), pd.read_csv(raw / "train.csv", keep_default_na=False)
    told = out_of_fold_masks(project, truth).rename(columns={"predicted": "segmentation"})
    score = json.loads((project / "runs/first/cv.json").read_text())["score"]
    assert score == pytest.approx(uw_score(truth, told, "segmentation", sizes), abs=1e-6)
    answers = pd.read_csv(raw / "hidden_answers.csv", keep_default_na=False)
    submission = pd.read_csv(project / "submissions/first.csv", keep_default_na=False)
    assert submission[["id", "class"]].equals(answers[["id", "class"]]), "the sample's order"
    empty = uw_score(answers, answers.assign(predicted=""), "predicted", sizes)
    assert uw_score(answers, submission, "predicted", sizes) > empty + 0.3


def test_uw_madison_is_edited_little(renders: Renders, tmp_path: Path) -> None:
    """And what is edited passes the render's own linter and the Hausdorff distance of SciPy."""
    rendered = renders.shared(yaml.safe_load((UW / "answers.yml").read_text())) / "src"
    edited, changes = list((UW / "src").rglob("*.py")), []
    for path in edited:
        ours = (rendered / path.relative_to(UW / "src")).read_text().splitlines()
        changes += [line for line in difflib.ndiff(ours, path.read_text().splitlines()) if line[0] in "+-"]
    assert len(edited) <= 4 and 0 < len(changes) <= 150
    project = uw_project(renders, tmp_path / "project")
    for check in (("check",), ("format", "--check")):
        subprocess.run([sys.executable, "-m", "ruff", *check, "src/competition"], cwd=project, check=True, timeout=60)
    generator = np.random.default_rng(0)
    with imported(project):
        from competition.metric import hausdorff

        for share in (0.3, 0.01, 0.002):
            true, said = generator.random((2, 5, 20, 30)) < share
            assert hausdorff(true, said) == pytest.approx(uw_hausdorff(true, said), abs=1e-12)
        assert (hausdorff(true, ~true), hausdorff(true, true)) == (uw_hausdorff(true, ~true), 0)
        nothing = np.zeros_like(true)
        assert (hausdorff(true, nothing), hausdorff(nothing, true), hausdorff(nothing, nothing)) == (1, 1, 0)


def uw_project(renders: Renders, target: Path) -> Path:
    """A render with the edited files."""
    answers = yaml.safe_load((UW / "answers.yml").read_text())
    project = renders.copy(target, {**answers, "trackers": []})
    shutil.copytree(UW / "src", project / "src", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return project


def uw_sizes(raw: Path) -> Sizes:
    """Height and width by id, from the names of the files."""
    found = {}
    for path in raw.rglob("slice_*.png"):
        _, number, width, height, *_ = path.stem.split("_")
        found[f"{path.parts[-3]}_slice_{number}"] = (int(height), int(width))
    return found


def out_of_fold_masks(project: Path, table: pd.DataFrame) -> pd.DataFrame:
    """What a submission of the out-of-fold predictions would be."""
    sample = table[["id", "class"]].assign(predicted="")
    predictions = pd.read_parquet(project / "runs/first/oof.parquet").set_index("id")
    with imported(project):
        from competition import competition

        return competition.submission(sample, predictions, competition.heads({}))


def uw_score(truth: pd.DataFrame, told: pd.DataFrame, column: str, sizes: Sizes) -> float:
    """The competition's metric, from two tables of RLE."""
    both = truth.merge(told, on=["id", "class"], suffixes=("", "_told"), validate="one_to_one").sort_values("id")
    assert len(both) == len(truth) == len(told)
    dice, volumes = [], {}
    for name, organ, *texts in both[["id", "class", column, f"{column}_told"]].itertuples(index=False):
        true, said = (uw_mask(text, sizes[name]) for text in texts)
        dice.append(2 * (true & said).sum() / (true.sum() + said.sum()) if true.any() or said.any() else 1)
        volumes.setdefault((name.split("_slice_")[0], organ), []).append((true, said))
    near = [1 - uw_hausdorff(*map(np.stack, zip(*slices, strict=True))) for slices in volumes.values()]
    return float(0.4 * np.mean(dice) + 0.6 * np.mean(near))


def uw_mask(text: str, size: tuple[int, int]) -> np.ndarray:
    flat, numbers = np.zeros(size[0] * size[1], bool), [int(number) for number in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(size)


def uw_hausdorff(true: np.ndarray, said: np.ndarray) -> float:
    if not true.any() or not said.any():
        return float(true.any() != said.any())
    one, other = np.argwhere(true), np.argwhere(said)
    away = max(directed_hausdorff(one, other)[0], directed_hausdorff(other, one)[0])
    return min(away / sum(side**2 for side in true.shape) ** 0.5, 1)
