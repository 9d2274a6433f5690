"""Heads of several kinds on one encoder: folds, gaps, metrics and submissions, up to a row for each image and head."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from pipeline.competition import Competition, Head
from pipeline.data.folds import make_folds, write_classes
from pipeline.data.labels import ClassLabels
from pipeline.heads.label_sets import LabelSets
from pipeline.heads.numbers import NumberLabels
from pipeline.heads.submission_columns import submission_table
from pipeline.metrics.image_level import find_metric
from pipeline.project import Project
from pipeline.settings import Settings
from pipeline.submission.build import fill
from pipeline.submission_schema import Keys
from pipeline.tasks import task_for
from pipeline.tasks.image_level.mixed_labels import MixedLabels
from projects import Renders, run_process, run_script
from test_multilabel import EXPERIMENT
from training import expect

ANSWERS = {"task": "multitask", "trackers": []}


def make_task() -> Any:
    heads = [
        Head("type", "multiclass", ("cat", "dog", "owl")),
        Head("sex", "multiclass", ("f", "m")),
        Head("age", "regression"),
    ]
    return task_for(Competition(Settings.model_construct()), heads)


def make_rows(count: int = 600, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "id": [f"r{row}" for row in range(count)],
            "type": generator.choice(["cat", "dog", "owl"], count, p=[0.7, 0.25, 0.05]),
            "sex": np.where(generator.random(count) < 0.3, None, generator.choice(["f", "m"], count)),
            "age": [f"{value:.2f}" for value in generator.exponential(4, count)],
            "tags": generator.choice(["", "old", "wild", "old wild"], count),
        }
    )
    rows.loc[rows.index % 7 == 0, "age"] = None
    return rows.replace({"tags": {"": None}})


def make_labels() -> Any:
    return MixedLabels([ClassLabels(("type",)), ClassLabels(("sex",)), NumberLabels(("age",)), LabelSets(("tags",))])


@pytest.mark.parametrize("grouped", [False, True])
def test_each_fold_has_all_of_it(grouped: bool) -> None:
    rows = make_rows(1200)
    if grouped:
        rows["group"] = [f"g{number}" for number in np.random.default_rng(1).integers(0, 300, len(rows))]
    rows = make_folds(rows, make_labels(), 4).rows
    if grouped:
        assert rows.groupby("group")["fold"].nunique().max() == 1
    slack = 0.25 if grouped else 0.05
    for column in ("type", "sex"):
        shares = pd.crosstab(rows["fold"], rows[column].fillna("gap"), normalize="index")
        whole = rows[column].fillna("gap").value_counts(normalize=True)
        assert (shares / whole - 1).abs().max(axis=None) < 2 * slack
    assert rows["age"].astype(float).groupby(rows["fold"]).mean().pipe(lambda mean: mean.max() / mean.min()) < 1 + slack
    tagged = rows["tags"].fillna("").str.contains("wild").groupby(rows["fold"]).mean()
    assert tagged.max() / tagged.min() < 1 + slack


def test_classes_are_listed_for_what_names_some(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path / "data")
    (tmp_path / "folds").mkdir()
    assert write_classes(project, (make_rows(), make_labels())) == {
        "type": ["cat", "dog", "owl"],
        "sex": ["f", "m"],
        "tags": ["old", "wild"],
    }


@pytest.mark.parametrize("mark", ["_", "."])
def test_a_row_for_each_image_and_head(mark: str) -> None:
    """As in Bengali graphemes: ids that end in the name of the head, in whatever order."""
    task, metric, ids = make_task(), find_metric("accuracy"), ["t_1", "t_2"]
    given = {
        "type:cat": 0.1,
        "type:dog": 0.7,
        "type:owl": 0.2,
        "sex:f": [0.6, 0.2],
        "sex:m": [0.4, 0.8],
        "age": [3.25, 1.0],
    }
    predictions = pd.DataFrame(given, index=pd.Index(ids, name="id"))
    names = [f"{row}{mark}{head}" for row in reversed(ids) for head in ("sex", "age", "type")]
    sample = pd.DataFrame({"row_id": names, "target": "0"})
    table = submission_table(sample, predictions, task.heads, metric, "id")
    filled = fill(sample, table, Keys(("row_id",)))
    assert filled["row_id"].tolist() == names
    assert filled["target"].tolist() == ["m", 1.0, "dog", "f", 3.25, "dog"]
    rules = task.submission.rules(sample, metric)
    text = filled.astype(str)
    assert rules.problems(text) == [] and len(rules.described()) == 3
    text.loc[0, "target"] = "dog"
    [problem] = rules.problems(text)
    assert problem.kind == "label" and "dog" in problem.text
    text.loc[0, "target"] = "m"
    text.loc[1, "target"] = "young"
    [problem] = rules.problems(text)
    assert problem.kind == "dtype" and "young" in problem.text
    assert task.submission.read(filled.set_index("row_id"), rules, metric) is None
    # Fewer heads than were trained may be asked for; one that is not known is a column of the user's own.
    part = sample[sample["row_id"].str.endswith("age")]
    assert submission_table(part, predictions, task.heads, metric, "id")["target"].tolist() == [3.25, 1.0]


@pytest.mark.slow
def test_a_head_without_a_loss_does_not_break_several_processes(renders: Renders, tmp_path: Path) -> None:
    project = renders.copy(tmp_path / "project", ANSWERS)
    rows = "losses: [{head: digit, loss: cross_entropy}]\n"
    (project / "experiments/part.yaml").write_text(EXPERIMENT.replace("epochs: 2", "epochs: 1") + rows)
    expect(run_script(project, "make_demo_data.py"))
    expect(run_script(project, "make_folds.py", "--n-folds", "3"))
    arguments = ("part", "--fold", "0", "machine.devices=2", "machine.device=cpu", "training.max_rows=64")
    expect(run_process(project, "train.py", *arguments))
    logged = pd.read_csv(project / "runs/part/fold_0/metrics.csv")
    terms = [name for name in logged if name.startswith("train/") and "digit" in name]
    assert terms and not [name for name in logged if "ink_" in name or "loop_" in name]
    oof = pd.read_parquet(project / "runs/part/fold_0/oof.parquet")
    assert oof[["digit:0", "loop:no", "ink"]].notna().all(axis=None)


@pytest.mark.slow
def test_the_whole_path(renders: Renders, tmp_path: Path) -> None:
    """Gaps in the demo's second column; a metric that combines heads of two kinds; rows per image and head."""
    project = renders.copy(tmp_path / "project", ANSWERS)
    (project / "experiments/short.yaml").write_text(EXPERIMENT)
    metric = project / "src/competition/metric.py"
    head, _, comment = metric.read_text().partition("# A metric that combines heads")
    code = [line.removeprefix("#").removeprefix(" ") for line in comment.splitlines()[1:]]
    metric.write_text(head[: head.index("def metrics")] + "\n".join(code) + "\n")
    for script in ("make_demo_data.py", "check_data.py"):
        expect(run_script(project, script))
    sample = project / "data/raw/sample_submission.csv"
    ids = pd.read_csv(sample, dtype=str)["image_id"]
    names = [f"{row}_{name}" for row in ids for name in ("ink", "digit")]
    pd.DataFrame({"row_id": names, "target": "0"}).to_csv(sample, index=False)
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    assert set(json.loads((project / "folds/classes.json").read_text())) == {"digit", "loop"}
    for script in ("train.py", "evaluate.py", "predict.py", "submit.py"):
        expect(run_script(project, script, "short"))
    train = pd.read_csv(project / "data/raw/train.csv", dtype=str).set_index("image_id")
    assert train["loop"].isna().mean() == pytest.approx(0.2, abs=0.05)
    oof = pd.read_parquet(project / "runs/short/oof.parquet").set_index("id")
    train = train.loc[oof.index]
    said = oof[[f"digit:{digit}" for digit in range(10)]].to_numpy().argmax(axis=1).astype(str)
    recall = recall_score(train["digit"], said, average="macro")
    fit = 1 - ((oof["ink"] - train["ink"].astype(float)) ** 2).mean() / train["ink"].astype(float).var(ddof=0)
    known = train["loop"].notna()
    loops = (oof["loop:yes"] > 0.5)[known] == (train["loop"][known] == "yes")
    assert recall > 0.8 and fit > 0.2 and loops.mean() > 0.85
    scores = json.loads((project / "runs/short/cv.json").read_text())
    assert scores["metric"] == "recall_and_fit" and scores["score"] > scores["constant"]["recall_and_fit"] + 0.3
    assert scores["overall"]["balanced_accuracy"] > 0.8
    written = pd.read_csv(project / "submissions/short.csv", dtype=str)
    assert written["row_id"].tolist() == names
    assert written["target"][1::2].isin([str(digit) for digit in range(10)]).all()
    assert written["target"][::2].astype(float).between(-20, 120).all()
    for figure in ("confusion_matrix/digit", "confusion_matrix/loop", "curves/digit", "scatter/ink", "errors/ink"):
        assert (project / f"runs/short/figures/{figure}.png").stat().st_size > 5000
