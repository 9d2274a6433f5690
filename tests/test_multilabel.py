"""Several labels per image: truth, folds, scores and submissions, each against an independent oracle."""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import fbeta_score, roc_auc_score
from sklearn.metrics import log_loss as sk_log_loss
from torch.nn import functional
from torchmetrics.functional import classification as oracle

from pipeline.competition import Head
from pipeline.data.check_labels import label_faults
from pipeline.data.folds import make_folds
from pipeline.heads.base import kind_of
from pipeline.heads.columns import Column
from pipeline.heads.label_probabilities import label_lists, list_form
from pipeline.heads.label_sets import LabelSets, ListForm
from pipeline.heads.submission_columns import submission_table
from pipeline.inference.evaluation import constant_scores
from pipeline.metrics.image_level import find_metric, over_heads
from pipeline.metrics.multilabel import f_score, log_loss
from pipeline.registry import Registry, Spec
from pipeline.settings import Settings
from projects import Renders, imported, metric_choices, run_script
from test_constant import task_of
from toolkit.errors import UserError
from training import expect

LABELS = ("ant", "bee", "cat")
HEAD = Head("labels", "multilabel", LABELS)
ANSWERS = {"task": "multilabel", "trackers": []}
NAMES = ("roc_auc", "f1_micro", "f1_macro", "f1_samples", "label_ranking_ap", "log_loss")
EXPERIMENT = """extends: demo
image: {size: 24}
training: {epochs: 2}
machine: {workers: 0}
watch: {figure_epochs: 0}
"""


def make_task() -> Any:
    return task_of(HEAD, metrics=("roc_auc", "f1_macro", "log_loss"))


def score(name: str, truth: Any, probabilities: Any) -> float:
    columns = [f"labels:{label}" for label in LABELS]
    tables = [pd.DataFrame(np.asarray(values), columns=columns) for values in (truth, probabilities)]
    return float(find_metric(name).function(*tables, [HEAD]))


def random_rows(count: int = 400, groups: int = 0, seed: int = 0) -> pd.DataFrame:
    """Labels of uneven frequency, some rows without any."""
    generator = np.random.default_rng(seed)
    held = generator.random((count, 3)) < [0.5, 0.2, 0.05]
    rows = pd.DataFrame(held.astype(int).astype(str), columns=list(LABELS))
    rows.insert(0, "id", [f"r{row}" for row in range(count)])
    if groups:
        rows["group"] = [f"g{number}" for number in generator.integers(0, groups, count)]
    return rows


def listed(rows: pd.DataFrame) -> pd.DataFrame:
    """The same truth in a single column; an empty cell is missing, as `read_table` reads it."""
    lists = [" ".join(label for label in LABELS if row[label] == "1") for _, row in rows.iterrows()]
    return rows.drop(columns=list(LABELS)).assign(labels=[text or None for text in lists])


def test_every_metric_against_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(200, 3, generator=generator) < torch.tensor([0.5, 0.3, 0.1])).long()
    given = torch.rand(200, 3, generator=generator, dtype=torch.float64)
    given = (given + 0.4 * truth).clamp(max=1).round(decimals=2)  # with ties
    said = (given >= 0.5).long()
    assert (truth + said).sum(dim=1).min() == 0, "there are rows without any label"
    rows = torch.stack([oracle.binary_f1_score(s, t, zero_division=1) for s, t in zip(said, truth, strict=True)])
    ranked = [row for row in range(200) if 0 < truth[row].sum() < 3]
    ap = oracle.multilabel_ranking_average_precision(given[ranked], truth[ranked], 3)
    clipped = given.clamp(np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
    expected = {
        "roc_auc": oracle.multilabel_auroc(given, truth, 3, average="macro"),
        "f1_micro": oracle.multilabel_f1_score(said, truth, 3, average="micro"),
        "f1_macro": oracle.multilabel_f1_score(said, truth, 3, average="macro"),
        "f1_samples": rows.mean(),
        "label_ranking_ap": (ap * len(ranked) + 200 - len(ranked)) / 200,
        "log_loss": functional.binary_cross_entropy(clipped, truth.double()),
    }
    assert tuple(expected) == NAMES
    for name, value in expected.items():
        assert score(name, truth, given) == pytest.approx(float(value), abs=1e-6), name


def test_scores_with_settings_against_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    columns = [f"labels:{label}" for label in LABELS]
    truth = (generator.random((200, 3)) < [0.5, 0.3, 0.1]).astype(int)
    given = np.clip(generator.random((200, 3)) + 0.3 * truth, 0.01, 0.99)
    tables = [pd.DataFrame(values, columns=columns) for values in (truth, given)]
    for average in ("micro", "macro", "samples"):
        metric = over_heads("own", {"multilabel": f_score(2, average)})
        expected = fbeta_score(truth, given >= 0.5, beta=2, average=average, zero_division=1)
        assert metric.function(*tables, [HEAD]) == pytest.approx(expected), average
    metric = over_heads("own", {"multilabel": log_loss({"bee": 3})})
    each = [sk_log_loss(truth[:, label], given[:, label]) for label in range(3)]
    assert metric.function(*tables, [HEAD]) == pytest.approx((each[0] + 3 * each[1] + each[2]) / 5)
    assert not metric.greater_is_better and metric.needs == "probabilities"
    with pytest.raises(UserError, match="'beee', no label of 'labels'; did you mean 'bee'"):
        over_heads("own", {"multilabel": log_loss({"beee": 3})}).function(*tables, [HEAD])


def test_copier_asks_for_every_metric_with_its_meaning(renders: Renders) -> None:
    with imported(renders.shared(ANSWERS)):
        from pipeline.metrics.image_level import METRICS
    choices = metric_choices("multilabel")
    assert [meaning.split(": ")[0] for meaning in choices] == list(choices.values()) == list(NAMES) == list(METRICS)


@pytest.mark.parametrize("name", NAMES)
def test_perfect_and_direction(name: str) -> None:
    truth = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    perfect, worse = score(name, truth, truth), score(name, truth, 1.0 - 0.8 * truth)
    assert perfect == pytest.approx(0 if name == "log_loss" else 1)
    assert find_metric(name).better(perfect, worse)


def test_worked_by_hand() -> None:
    truth = [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]]
    given = [[0.9, 0.6, 0.1], [0.4, 0.1, 0.2], [0.3, 0.2, 0.1], [0.4, 0.5, 0.0]]
    # The label 'cat' is never true: it has no ROC curve, and no F1 since it is never said either.
    assert score("roc_auc", truth, given) == pytest.approx((3.5 / 4 + 2 / 3) / 2)
    assert score("f1_macro", truth, given) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert score("f1_micro", truth, given) == pytest.approx(2 * 2 / (3 + 3))
    assert score("f1_samples", truth, given) == pytest.approx((2 / 3 + 0 + 1 + 1) / 4)


def test_what_is_not_defined_is_nan_with_a_reason() -> None:
    nothing = np.zeros((3, 3))
    for name in ("roc_auc", "f1_micro", "f1_macro"):
        with pytest.warns(UndefinedMetricWarning, match="head 'labels'"):
            assert math.isnan(score(name, nothing, nothing + 0.1))
    with pytest.warns(UndefinedMetricWarning, match="2 rows of the predictions are not finite"):
        assert math.isnan(score("log_loss", nothing, np.array([[0.1, 0.1, np.nan]] * 2 + [[0.1] * 3])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score("label_ranking_ap", nothing, nothing) == 1
        assert score("log_loss", nothing, nothing) == pytest.approx(0)


def test_targets_of_both_forms_are_the_same() -> None:
    rows = random_rows()
    expected = rows[list(LABELS)].to_numpy(np.float32)
    for form in (rows, listed(rows)):
        found = kind_of(HEAD).targets(form)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
        truth = make_task().predictions.truth(form)
        assert list(truth.index) == list(rows["id"]) and list(truth) == [f"labels:{label}" for label in LABELS]
        np.testing.assert_array_equal(truth.to_numpy(), expected)
    soft = rows.assign(**{f"labels:{label}": [0.25] + [None] * (len(rows) - 1) for label in LABELS})
    found = kind_of(HEAD).targets(soft)
    np.testing.assert_array_equal(found[0], [0.25] * 3)
    np.testing.assert_array_equal(found[1:], expected[1:])


@pytest.mark.parametrize(
    ("form", "cell", "message"),
    [
        ("columns", "2", r"column 'bee': 1 rows \(id r7\) hold '2', and 0 or 1 is expected"),
        ("list", "ant beee", r"column 'labels': 1 rows \(id r7\) have labels .* 'beee'; did you mean 'bee'"),
    ],
)
def test_a_wrong_cell_names_its_row(form: str, cell: str, message: str) -> None:
    rows = random_rows() if form == "columns" else listed(random_rows())
    rows.loc[7, "bee" if form == "columns" else "labels"] = cell
    with pytest.raises(UserError, match=message):
        kind_of(HEAD).targets(rows)


@pytest.mark.parametrize("form", ["columns", "list"])
def test_each_fold_has_every_label_as_often(form: str) -> None:
    truth = random_rows()
    rows = truth if form == "columns" else listed(truth)
    folds = make_folds(rows, LabelSets(LABELS if form == "columns" else ("labels",)), 5)
    assert folds.splitter == "stratified" and max(folds.sizes()) - min(folds.sizes()) <= 3
    held = truth[list(LABELS)].astype(int).assign(none=lambda table: 1 - table.max(axis=1))
    per_fold = held.groupby(folds.rows["fold"]).sum()
    assert (per_fold.max() - per_fold.min()).max() <= 3, per_fold


def test_groups_stay_together_and_labels_are_spread() -> None:
    rows = make_folds(random_rows(2000, groups=300), LabelSets(LABELS), 4).rows
    assert (rows.groupby("group")["fold"].nunique() == 1).all()
    shares = rows[list(LABELS)].astype(int).groupby(rows["fold"]).mean()
    assert ((shares.max() - shares.min()) < 0.06).all(), shares


def test_rare_labels_are_a_note_and_classes_are_words() -> None:
    rows, labels = listed(random_rows()), LabelSets(("labels",))
    rows.loc[3, "labels"] = "ant yak"
    assert set(labels.cells(rows, "labels")) == {*LABELS, "yak"}
    assert make_folds(rows, labels, 5).warnings == ("1 of 4 labels have fewer rows than there are folds (yak)",)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["ant bee", "bee", "", "cat ant"], "divided by spaces"),
        (["ant|bee", "bee", "", "cat|ant"], "divided by '|'"),
        (["ant,bee", "bee", "", "cat,ant"], "divided by ','"),
        (["ant; bee", "bee", "", "cat; ant"], "divided by ';'"),
        (["['ant', 'bee']", "['bee']", "[]", "['cat', 'ant']"], "written like ['a', 'b']"),
        (['["ant","bee"]', '["bee"]', "[]", '["cat","ant"]'], 'written like ["a","b"]'),
        (["['ant' 'bee']", "['bee']", "[]", "['cat' 'ant']"], "written like ['a' 'b']"),
        (["{ant,bee}", "{bee}", "{}", "{cat,ant}"], "written like {a,b}"),
    ],
)
def test_lists_are_divided_by_what_their_cells_show(cells: list[str], said: str) -> None:
    """Labels, truth, the note, and a submission in the form of the sample's cells."""
    rows, labels = pd.DataFrame({"id": list("abcd"), "labels": cells}, dtype="str"), LabelSets(("labels",))
    assert labels.cells(rows, "labels").tolist() == ["ant", "bee", "bee", "cat", "ant"]
    expected = [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert kind_of(HEAD).targets(rows).tolist() == expected
    assert kind_of(HEAD).targets(rows[1:2]).tolist() == expected[1:2], "no need of a cell with several labels"
    notes = list(labels.faults(rows))
    assert [said in note.detail and not note.fatal for note in notes] == [True] * ("spaces" not in said)
    table, task, chosen = submitted(("Target",), "f1_samples", [cells[0]])
    assert table["Target"].tolist() == [
        cells[0],
        cells[1],
        cells[3].replace("cat", "x").replace("ant", "cat").replace("x", "ant"),
    ]
    rules = task.submission.rules(pd.DataFrame({"image_id": ["s"], "Target": [cells[0]]}), chosen)
    assert rules.problems(table.astype(str)) == [] and said in rules.described()[0]
    back = task.submission.read(table.set_index("image_id"), rules, chosen)
    assert back.to_numpy().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_labels_with_spaces_and_marks_in_their_names() -> None:
    def found(cells: list[str], separator: str = "") -> set[str]:
        rows = pd.DataFrame({"labels": cells}, dtype="str")
        return set(LabelSets(("labels",), separator).cells(rows, "labels"))

    assert found(["No Finding", "Mass|No Finding", "Mass"]) == {"No Finding", "Mass"}
    assert found(["x y", "x", "y 1,2-diol", "1,2-diol"]) == {"x", "y", "1,2-diol"}
    assert found(["a/b c", "c"]) == {"a/b", "c"}
    assert found(["a|b c", "c"], separator=" ") == {"a|b", "c"}, "what targets.py says holds"
    head = replace(HEAD, classes=("Mass", "No Finding"))
    rows = pd.DataFrame({"id": ["a", "b"], "labels": ["No Finding", "Mass|No Finding"]})
    assert kind_of(head).targets(rows).tolist() == [[0, 1], [1, 1]]
    with pytest.raises(UserError, match="'No Finding' holds a space, and the sample"):
        list_form(head, Column("labels", head, shown=("Mass",)))
    shown = list_form(head, Column("labels", head, shown=("Mass ; No Finding",)))
    assert label_lists(np.array([[0.9, 0.8]]), head, shown).tolist() == ["Mass ; No Finding"]
    told = replace(head, separator="|")
    assert list_form(told, Column("labels", told, shown=("Mass",))) == ListForm("|")
    assert list_form(told, Column("labels", told, shown=("Mass;No Finding",))) == ListForm(";"), "the sample's"


def test_flags_in_several_spellings_are_the_same() -> None:
    rows = random_rows()
    truth = kind_of(HEAD).targets(rows)
    spelled = rows.assign(
        ant=[
            {"1": ("1", "1.0", "True", "yes"), "0": ("0", "0.0", "no")}[cell][row % 3]
            for row, cell in enumerate(rows["ant"])
        ]
    )
    labels = LabelSets(LABELS)
    assert (kind_of(HEAD).targets(spelled) == truth).all()
    assert labels.cells(spelled, "ant").tolist() == rows["ant"].tolist()

    settings = Settings.model_construct(target_columns=LABELS)
    assert not list(label_faults(spelled, labels, settings, {})) and not list(labels.faults(spelled))
    [fault] = labels.faults(spelled.assign(bee="maybe"))
    assert fault.fatal and fault.row == "bee" and "hold 'maybe'" in fault.detail


@pytest.mark.parametrize("seed", range(3))
def test_a_rare_label_trains_in_each_fold(seed: int) -> None:
    generator = np.random.default_rng(seed)
    held = pd.DataFrame(generator.random((60, 30)) < 0.04, columns=[f"l{label}" for label in range(30)])
    rows = held.astype(int).astype(str).assign(id=[f"r{row}" for row in range(60)])
    folds = make_folds(rows, LabelSets(tuple(held)), 3, seed).rows["fold"]
    for label in held:
        assert held[label].sum() < 2 or folds[held[label]].nunique() > 1, label


def test_a_constant_scores_as_the_dummy_of_each_fold() -> None:
    rows = random_rows().assign(fold=np.arange(400) % 3)
    trains, held_out = rows[rows["fold"] != 1], rows[rows["fold"] == 1]
    truth = held_out[list(LABELS)].to_numpy(int)
    dummy = DummyClassifier(strategy="prior").fit(trains, trains[list(LABELS)].astype(int))
    said = np.column_stack([shares[:, 1] for shares in dummy.predict_proba(held_out)])
    found = constant_scores(make_task(), rows, ["1"])["constant"]
    assert found["roc_auc"] == pytest.approx(np.mean([roc_auc_score(truth[:, i], said[:, i]) for i in range(3)])) == 0.5
    entropy = functional.binary_cross_entropy(torch.from_numpy(said), torch.from_numpy(truth).double())
    assert found["log_loss"] == pytest.approx(float(entropy), abs=1e-6)


def test_decoding_is_a_sigmoid_and_smoothing_moves_towards_a_half() -> None:
    task, logits = make_task(), torch.tensor([[2.0, -1.0, 0.0], [-3.0, 9.0, 0.5]])
    found = task.predictions.decode(["a", "b"], {"output_labels": logits})
    np.testing.assert_allclose(found.to_numpy(), 1 / (1 + np.exp(-logits.numpy())), rtol=1e-6)
    entry = Spec(name="bce", params={"label_smoothing": 0.2})
    target = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    expected = functional.binary_cross_entropy_with_logits(logits, 0.8 * target + 0.1, reduction="none").mean(dim=1)
    torch.testing.assert_close(Registry(task.NAMES).bind("loss", entry)(HEAD)(logits, target), expected)


def submitted(columns: tuple[str, ...], metric: str, shown: Sequence[str] = ("",)) -> tuple[pd.DataFrame, Any, Any]:
    """A submission of three rows, the task, and the metric; the cells of the sample are `shown`."""
    given = np.array([[0.9, 0.6, 0.1], [0.2, 0.4, 0.3], [0.5, 0.1, 0.8]])
    predictions = pd.DataFrame(given, index=["x", "y", "z"], columns=[f"labels:{label}" for label in LABELS])
    sample = pd.DataFrame({name: list(shown) for name in ("image_id", *columns)})
    return (
        submission_table(sample, predictions, [HEAD], find_metric(metric), "image_id"),
        make_task(),
        find_metric(metric),
    )


@pytest.mark.parametrize(
    ("columns", "metric", "expected"),
    [
        (LABELS, "roc_auc", [[0.9, 0.6, 0.1], [0.2, 0.4, 0.3], [0.5, 0.1, 0.8]]),
        (LABELS, "f1_macro", [[1, 1, 0], [0, 0, 0], [1, 0, 1]]),
        (("cat", "ant"), "f1_macro", [[0, 1], [0, 0], [1, 1]]),
        (("labels",), "f1_samples", [["ant bee"], ["bee"], ["ant cat"]]),  # never empty: the most probable one
        (("Target",), "f1_samples", [["ant bee"], ["bee"], ["ant cat"]]),
    ],
)
def test_a_submission_has_the_shape_of_the_sample(columns: tuple[str, ...], metric: str, expected: list[Any]) -> None:
    table, task, chosen = submitted(columns, metric)
    assert table[list(columns)].to_numpy().tolist() == expected
    rules = task.submission.rules(table.astype(str), chosen)
    assert len(rules.described()) == len(columns)
    assert rules.problems(table.astype(str)) == []
    back = task.submission.read(table.set_index("image_id"), rules, chosen)
    if len(columns) == 2:
        assert back is None, "it does not tell every label"
    else:
        decided = [[1, 1, 0], [0, 1, 0], [1, 0, 1]] if len(columns) == 1 else expected
        np.testing.assert_allclose(back.to_numpy(), np.array(decided, np.float32))


@pytest.mark.parametrize(
    ("columns", "metric", "cell", "kind", "text"),
    [
        (LABELS, "roc_auc", "1.2", "range", "outside [0, 1]"),
        (LABELS, "roc_auc", "yes", "dtype", "text where a number is expected"),
        (LABELS, "f1_macro", "0.7", "dtype", "not whole numbers"),
        (LABELS, "f1_macro", "1.0", "dtype", "whole numbers written as floats"),
        (("labels",), "f1_samples", "", "blank", "are blank"),
        (("labels",), "f1_samples", "ant beee", "label", "hold what is no label (beee)"),
        (("labels",), "f1_samples", "ant,bee", "label", "exactly, divided by spaces"),
        (("labels",), "f1_samples", "ant ant", "label", "name a label twice"),
    ],
)
def test_a_bad_cell_is_one_problem(columns: tuple[str, ...], metric: str, cell: str, kind: str, text: str) -> None:
    table, task, chosen = submitted(columns, metric)
    told = table.astype(str).set_index("image_id", drop=False)
    rules = task.submission.rules(told, chosen)
    told.loc["y", columns[0]] = cell
    [problem] = rules.problems(told)
    assert problem.kind == kind and text in problem.text, problem


def test_the_commented_example_of_an_own_metric_works(renders: Renders) -> None:
    text = (renders.shared(ANSWERS) / "src/competition/metric.py").read_text()
    start = text.index("# def all_right")
    example = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text[start:].splitlines())
    namespace: dict[str, Any] = {"pd": pd, "Sequence": Sequence, "Head": Head}
    exec(f"{text[:start]}\n{example}", namespace)
    own = namespace["metrics"](namespace["Settings"].model_construct(metric="roc_auc"))
    columns = [f"labels:{label}" for label in LABELS]
    truth = pd.DataFrame([[1, 0, 0], [0, 0, 0]], columns=columns)
    said = pd.DataFrame([[0.5, 0.1, 0.4], [0.6, 0.0, 0.0]], columns=columns)
    assert [metric.name for metric in own] == ["all_right", "roc_auc", "f1_macro", "log_loss"]
    assert own[0].function(truth, said, [HEAD]) == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("columns", [pytest.param("even, prime, loop, large", marks=pytest.mark.full), "answers"])
def test_the_whole_path(columns: str, renders: Renders, tmp_path: Path) -> None:
    """Both forms of the truth, each with a submission in the same form."""
    lists = "," not in columns
    answers = {**ANSWERS, "target_columns": columns, "metric": "f1_samples" if lists else "roc_auc"}
    project = renders.copy(tmp_path / "project", answers)
    (project / "experiments/short.yaml").write_text(EXPERIMENT)
    for script in ("make_demo_data.py", "check_data.py"):
        expect(run_script(project, script))
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    for script in ("train.py", "evaluate.py", "predict.py", "submit.py"):
        expect(run_script(project, script, "short"))
    head, labels = "answers" if lists else "labels", ["even", "prime", "loop", "large"]
    oof = pd.read_parquet(project / "runs/short/oof.parquet").set_index("id")
    train = pd.read_csv(project / "data/raw/train.csv", dtype=str, keep_default_na=False).set_index("image_id")
    if lists:
        words = train["answers"].str.split()
        truth = pd.DataFrame({name: [name in row for row in words] for name in labels}, index=train.index)
    else:
        truth = train[labels] == "1"
    areas = [roc_auc_score(truth.loc[oof.index, name], oof[f"{head}:{name}"]) for name in labels]
    assert len(oof) == 1297 and np.mean(areas) >= 0.95
    assert (project / f"runs/short/figures/labels/{head}.png").stat().st_size > 5000
    written = pd.read_csv(project / "submissions/short.csv", dtype=str, keep_default_na=False)
    sample = pd.read_csv(project / "data/raw/sample_submission.csv", dtype=str)
    assert list(written) == list(sample) and written["image_id"].tolist() == sample["image_id"].tolist()
    assert (written["answers"] != "").all() if lists else written[labels].astype(float).stack().between(0, 1).all()
    if lists:
        decided_by_thresholds(project)


def decided_by_thresholds(project: Path) -> None:
    """Out-of-fold probabilities that came out too low: thresholds are tuned, kept, used, and dropped when they are no
    use any more."""
    labels = json.loads((project / "folds/classes.json").read_text())["answers"]
    run, columns = project / "runs/short", [f"answers:{name}" for name in labels]
    whole = {path: pd.read_parquet(path) for path in [*run.glob("fold_*/oof.parquet"), run / "test.parquet"]}
    for path, table in whole.items():
        table.assign(**{name: table[name] ** 6 for name in columns}).to_parquet(path, index=False)
    said = expect(run_script(project, "evaluate.py", "short")).stdout
    assert "submissions use runs/short/thresholds.json" in said and "tuned" in said
    thresholds = json.loads((run / "thresholds.json").read_text())["answers"]
    assert json.loads((run / "cv.json").read_text())["tuned"]["used"]
    expect(run_script(project, "submit.py", "short"))
    written = pd.read_csv(project / "submissions/short.csv", dtype=str).set_index("image_id")["answers"].str.split()
    exact = pd.read_parquet(run / "test.parquet").set_index("id")[columns].loc[written.index].astype(float)
    given = exact >= thresholds
    full = given.any(axis=1)  # a row without a label gets its most probable one
    assert max(thresholds) < 0.4 and full.mean() > 0.9
    assert [set(row) for row in written[full]] == [
        {labels[i] for i in np.flatnonzero(row)} for row in given[full].values
    ]
    (run / "thresholds.json").write_text('{"answers": [0.5]}')
    assert "scripts/evaluate.py short" in expect(run_script(project, "submit.py", "short"), status=2).last_line
    for path, table in whole.items():
        table.to_parquet(path, index=False)
    expect(run_script(project, "evaluate.py", "short"))
    assert not (run / "thresholds.json").exists() or json.loads((run / "cv.json").read_text())["tuned"]["used"]
