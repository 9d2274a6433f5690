"""Side columns: cells become numbers, numbers become features, and without side columns nothing changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from multi_view import ANSWERS, multi_view_project, set_answer
from pipeline.competition import Head
from pipeline.config import Model
from pipeline.data.side_columns import input_names, side_inputs
from pipeline.models.encoder_heads import EncoderHeads, Standardize
from pipeline.registry import Registry
from pipeline.settings import parse_settings
from pipeline.tasks.image_level.task import ImageLevelTask
from pipeline.training.batch_transforms import Mixup
from projects import ROOT, Renders, run_script
from toolkit.errors import UserError
from training import assert_same_outcome, expect, outcome

COLUMNS: dict[str, tuple[str, ...]] = {"age": (), "implant": (), "view": ("CC", "MLO")}


def rows_of(**columns: list[Any]) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    return table.assign(id=[f"r{number}" for number in range(len(table))])


def test_cells_become_numbers_in_the_order_of_the_columns() -> None:
    rows = rows_of(
        view=["MLO", "CC", None, " MLO "],
        implant=["True", "no", "NA", "1"],
        age=["63", " 41.5", None, "-2e1"],
    )
    found = side_inputs(rows, COLUMNS, is_test=False)
    nan = np.nan
    assert found.dtype == np.float32 and input_names(COLUMNS) == ("age", "implant", "view:CC", "view:MLO")
    expected = [[63, 1, 0, 1], [41.5, 0, 1, 0], [nan, nan, nan, nan], [-20, 1, 0, 1]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    backwards = dict(reversed(COLUMNS.items()))
    np.testing.assert_array_equal(side_inputs(rows, backwards, False), found[:, [2, 3, 1, 0]])
    numbers = rows_of(age=[1.5, nan, 3.0], implant=[True, False, True])
    found = side_inputs(numbers, {"age": (), "implant": ()}, False)
    np.testing.assert_array_equal(found, np.array([[1.5, 1], [nan, 0], [3, 1]], np.float32))
    assert side_inputs(rows.iloc[:0], COLUMNS, True).shape == (0, 4)


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        (
            "age",
            ["old", "63", "young"],
            r"'age': 2 rows \(id r0, r2\) hold neither .* \(old, young\);.* list categories",
        ),
        ("age", ["1", "inf", "3"], r"'age': 1 rows \(id r1\)"),
        ("age", ["1", "1e39", "3"], r"'age': 1 rows \(id r1\)"),
        ("view", ["CC", "MLO", "MLo"], r"'view': 1 rows \(id r2\) .* \(MLo\); did you mean 'MLO'"),
    ],
)
def test_a_wrong_cell_names_its_row(column: str, cells: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        side_inputs(rows_of(**{column: cells}), {column: COLUMNS[column]}, is_test=False)


def test_a_category_that_only_a_test_table_has_is_none_of_them() -> None:
    found = side_inputs(rows_of(view=["CC", "LM", None]), {"view": ("CC", "MLO")}, is_test=True)
    np.testing.assert_array_equal(found, np.array([[1, 0], [0, 0], [np.nan, np.nan]], np.float32))


def test_statistics_are_those_of_all_values_seen() -> None:
    random = np.random.default_rng(0)
    values = random.normal([60, 0.001, 5], [12, 0.0001, 0], (101, 3)).astype(np.float32)
    values[random.random((101, 3)) < 0.3] = np.nan
    values[0] = np.nan
    module, given = Standardize(3), torch.from_numpy(values)
    for batch in (given[:1], given[1:2], *given[2:].split(33)):
        assert not module(batch)[~batch.isnan()].isnan().any()
    module.eval()
    found = module(given)
    np.testing.assert_allclose(module.mean, np.nanmean(values.astype(np.float64), axis=0), rtol=1e-4)
    np.testing.assert_allclose(module.variance[:2].sqrt(), np.nanstd(values.astype(np.float64), axis=0)[:2], rtol=1e-3)
    assert torch.equal(found.isnan(), given.isnan())
    np.testing.assert_allclose(found[:, :2].nanmean(dim=0), [0, 0], atol=1e-3)
    assert torch.equal(module(given).nan_to_num(), found.nan_to_num()), "evaluation learns nothing"


def make_network(side: tuple[str, ...] | None) -> Any:
    settings = Model(encoder="test_resnet", pretrained=False, side_columns=side, side_drop_rate=0.0)
    torch.manual_seed(0)
    return EncoderHeads([Head("cancer", "multiclass", ("0", "1"))], settings, Registry(ImageLevelTask.NAMES))


def test_missing_values_make_no_nan_and_are_not_the_mean() -> None:
    network = make_network(("age", "implant"))
    image = torch.rand(6, 3, 24, 24)
    side = torch.tensor([[1.0, 5], [torch.nan, 7], [3, torch.nan], [torch.nan, torch.nan], [5, 1], [2, 2]])
    output = network({"input_image": image, "input_side": side})["output_cancer"]
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    network.eval()
    mean = torch.tensor([[2.75, 3.75]]).expand(6, 2)
    with torch.no_grad():
        known = network({"input_image": image, "input_side": mean})["output_cancer"]
        unknown = network({"input_image": image, "input_side": torch.full((6, 2), torch.nan)})["output_cancer"]
    assert (known - unknown).abs().min() > 1e-5


def test_without_side_columns_the_weights_are_what_they_were() -> None:
    plain, none, some = make_network(None), make_network(()), make_network(("age",))
    assert list(plain.state_dict()) == list(none.state_dict())
    assert not any("side" in name for name in plain.state_dict())
    added = set(some.state_dict()) - set(plain.state_dict())
    assert added and all(name.startswith("side.") for name in added)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, none.state_dict()[name])


def test_mixup_mixes_what_both_know() -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    side, image = torch.rand(16, 2), torch.rand(16, 3, 8, 8)
    side[::3, 1] = torch.nan
    mixed = Mixup(mode="elem", prob=0.6)({"input_image": image, "input_side": side})
    partner, share = mixed["input_partner"], mixed["input_share"]
    lost = side[partner].isnan().any(dim=1)
    assert (lost & (share == 1)).any() and (lost & (share < 1)).any(), "some are mixed and some are not"
    for row in range(16):
        if share[row] == 1:
            np.testing.assert_array_equal(mixed["input_side"][row], side[row])
        else:
            expected = share[row] * side[row] + (1 - share[row]) * side[partner[row]]
            np.testing.assert_allclose(mixed["input_side"][row], expected, rtol=1e-5)
    assert "input_side" not in Mixup()({"input_image": image})


def test_settings_take_a_list_or_categories() -> None:
    answers = {**ANSWERS, "task": "classification", "target_columns": ["cancer"]}

    def parsed(columns: Any) -> dict[str, tuple[str, ...]]:
        return parse_settings({**answers, "side_columns": columns}, Path("competition.yaml")).side_columns

    assert list(parsed(["implant", "age"]).items()) == [("implant", ()), ("age", ())]
    assert parsed({"age": [], "view": ["CC", "MLO"]}) == {"age": (), "view": ("CC", "MLO")}
    for wrong, message in ((["age", "cancer"], "name twice: cancer"), ([["age"]], "side_columns.*valid dictionary")):
        with pytest.raises(UserError, match=message):
            parsed(wrong)


@pytest.mark.slow
def test_the_whole_path_learns_from_the_side_column_alone(renders: Renders, tmp_path: Path) -> None:
    project = multi_view_project(renders, tmp_path / "project", patients=60, epochs=12, told_by="implant")
    set_answer(project, "side_columns: []", "side_columns: {age: [], implant: [], view: [CC, MLO]}")
    (project / "experiments/blind.yaml").write_text(
        "extends: small\nmodel: {side_columns: []}\ntraining: {epochs: 2}\n"
    )
    expect(run_script(project, "check_data.py"))
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    areas = {}
    for name in ("small", "blind"):
        for script in ("train.py", "evaluate.py", "predict.py", "submit.py"):
            expect(run_script(project, script, name))
        oof = pd.read_parquet(project / "runs" / name / "oof.parquet").set_index("id")["cancer:1"]
        train = pd.read_csv(project / "data/raw/train.csv", dtype=str)
        truth = train.set_index(train["patient_id"] + "_" + train["laterality"])["cancer"].astype(int)
        areas[name] = roc_auc_score(truth[~truth.index.duplicated()][oof.index], oof)
    assert areas["small"] > 0.98 and 0.2 < areas["blind"] < 0.8, areas
    test = pd.read_csv(project / "data/raw/test.csv", dtype=str)
    assert test["age"].isna().any(), "values are missing there too"
    said = pd.read_parquet(project / "runs/small/test.parquet").set_index("id")["cancer:1"]
    implant = test.set_index(test["patient_id"] + "_" + test["laterality"])["implant"] == "True"
    assert roc_auc_score(implant[~implant.index.duplicated()][said.index], said) > 0.98
    set_answer(project, "side_columns: {age: [], implant: [], view: [CC, MLO]}", "side_columns: []")
    changed = expect(run_script(project, "train.py", "blind", "--fold", "0"), 2)
    assert "competition.yaml.side_columns" in changed.last_line
    (project / "experiments/plain.yaml").write_text("extends: small\ntraining: {epochs: 2}\n")
    expect(run_script(project, "train.py", "plain", "--fold", "0"))
    assert_same_outcome(outcome(project, "blind"), outcome(project, "plain"))
    assert json.loads((project / "runs/plain/fold_0/fold.json").read_text())["epochs"] == 2


def test_faults_are_one_line(renders: Renders, tmp_path: Path) -> None:
    project = multi_view_project(renders, tmp_path / "project", patients=12)
    set_answer(project, "side_columns: []", "side_columns: [age, view]")
    result = expect(run_script(project, "check_data.py"), 2)
    assert "2 x side column" in result.last_line
    assert "side_columns: {view: [CC, MLO]}" in " ".join(result.stdout.replace("|", " ").split())
    set_answer(project, "side_columns: [age, view]", "side_columns: [age]")
    expect(run_script(project, "make_folds.py", "--n-folds", "2"))
    result = expect(run_script(project, "train.py", "small", "model.side_columns=[agee]"), 2)
    assert "did you mean 'age'" in result.last_line
    path = project / "data/raw/test.csv"
    pd.read_csv(path, dtype=str).drop(columns="age").to_csv(path, index=False)
    for script in ("check_data.py", "make_folds.py"):
        result = expect(run_script(project, script, *(["--force"] if script == "make_folds.py" else [])), 2)
        assert "rows of test.csv come without the column 'age'" in result.last_line
        assert result.last_line.count("src/competition/tables.py") == 1, "one remedy"


def test_they_are_refused_where_nothing_reads_them(renders: Renders, tmp_path: Path) -> None:
    """Masks are predicted from images alone; so are several images for one mask."""
    project = renders.copy(tmp_path / "project", {"task": "segmentation", "trackers": []})
    (project / "data/raw").mkdir(parents=True)
    path = project / "competition.yaml"
    before = path.read_text()
    for line in ("side_columns: [age]", "prediction_column: patient"):
        path.write_text(f"{before}\n{line}\n")
        for script in ("check_data.py", "make_folds.py"):
            result = expect(run_script(project, script, "--data", str(ROOT / "docs")), 2)
            assert f"{line.partition(':')[0]} in competition.yaml is read by nothing" in result.last_line
