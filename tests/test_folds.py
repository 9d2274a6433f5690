"""The fold contract: who divides, what is refused later, what only warns."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedKFold

from pipeline.data.command import fold_columns
from pipeline.data.folds import FoldTable, class_order, load_folds, make_folds, split, write_classes, write_folds
from pipeline.data.labels import ClassLabels
from pipeline.project import Project
from pipeline.settings import Settings
from projects import Renders, run_script
from toolkit.errors import UserError

SETTINGS = Settings(
    competition="birds",
    task="classification",
    metric="accuracy",
    target_columns=("label",),
    train_images="{id}",
    test_images="{id}",
)


def make_rows(count: int = 300, classes: int = 4, groups: int = 0, seed: int = 0) -> pd.DataFrame:
    """Uneven classes; ids that only survive as text."""
    generator = np.random.default_rng(seed)
    share = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    rows = pd.DataFrame(
        {
            "id": [f"{row:05d}" if row % 2 else f"{row}.10" for row in range(count)],
            "image": [f"{row}.png" for row in range(count)],
            "label": generator.choice([f"c{number}" for number in range(classes)], count, p=share),
            "source": "competition",
        }
    )
    return rows.assign(group=[f"g{group}" for group in generator.integers(0, groups, count)]) if groups else rows


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, tmp_path / "data")


def write(project: Project, rows: pd.DataFrame, **asked: object) -> pd.DataFrame:
    folds = make_folds(rows, ClassLabels(["label"]), **asked)  # type: ignore[arg-type]
    write_folds(project, "folds", folds, ["label"])
    return folds.rows


def refusal(project: Project, rows: pd.DataFrame, name: str = "folds") -> str:
    with pytest.raises(UserError) as caught:
        load_folds(project, name, rows, SETTINGS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_scored_row_is_held_out_once() -> None:
    rows = make_folds(make_rows(), ClassLabels(["label"]), 5).rows
    held_out = pd.concat([split(rows, fold)[1] for fold in range(5)])
    assert sorted(held_out["id"]) == sorted(rows["id"])
    for fold in range(5):
        train, valid = split(rows, str(fold))
        assert not set(train["id"]) & set(valid["id"])
        assert len(train) + len(valid) == len(rows)


def test_classes_are_spread_evenly() -> None:
    folds = make_folds(make_rows(600), ClassLabels(["label"]), 5)
    assert folds.splitter == "stratified"
    counts = pd.crosstab(folds.rows["fold"], folds.rows["label"])
    assert (counts.max() - counts.min()).max() <= 1


def test_several_targets_are_stratified_together() -> None:
    rows = make_rows(600, classes=3).assign(side=lambda table: np.where(np.arange(len(table)) % 3, "left", "right"))
    counts = pd.crosstab(
        (found := make_folds(rows, ClassLabels(["label", "side"]), 5).rows)["fold"], [found["label"], found["side"]]
    )
    assert (counts.max() - counts.min()).max() <= 1


@pytest.mark.parametrize("splitter", ["auto", "group", "stratified_group"])
def test_groups_never_cross(splitter: str) -> None:
    folds = make_folds(make_rows(900, groups=80), ClassLabels(["label"]), 5, splitter=splitter)  # type: ignore[arg-type]
    assert "group" in folds.splitter
    assert folds.rows.groupby("group")["fold"].nunique().max() == 1
    assert max(folds.sizes()) < 1.3 * min(folds.sizes())
    if splitter != "group":
        shares = pd.crosstab(folds.rows["fold"], folds.rows["label"], normalize="index")
        assert (shares.max() - shares.min()).max() < 0.08


def test_seed_decides() -> None:
    for groups in (0, 60):
        rows = make_rows(groups=groups)
        for splitter in ("group", "stratified_group") if groups else ("plain", "stratified"):
            one, same, other = (make_folds(rows, ClassLabels(["label"]), 5, seed, splitter) for seed in (1, 1, 2))  # type: ignore[arg-type]
            assert one.hash == same.hash
            assert one.hash != other.hash


def test_rare_classes_warn_and_still_divide() -> None:
    rows = make_rows()
    rows.loc[:1, "label"] = ["rare a", "rare b"]
    folds = make_folds(rows, ClassLabels(["label"]), 5)
    assert "2 of 6 classes" in folds.warnings[0] and "rare a" in folds.warnings[0]
    lonely = rows.assign(label=rows["id"])
    assert make_folds(lonely, ClassLabels(["label"]), 5).splitter == "plain"


def folds_of_classes(rows: pd.DataFrame, column: str = "label") -> pd.Series:
    """In how many folds each class with several units (groups, or rows) is."""
    unit = "group" if "group" in rows else "id"
    found = rows.groupby(column).agg({"fold": "nunique", unit: "nunique"})
    return found.loc[found[unit] > 1, "fold"]


def pairs(count: int, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"r{row}" for row in range(count)], **columns})


@pytest.mark.parametrize("seed", range(3))
def test_a_class_of_few_rows_trains_in_each_fold(seed: int) -> None:
    """A hundred classes of two rows; some of two to four beside a large one; the seed changes nothing about that."""
    two = make_folds(pairs(200, label=[f"c{row // 2}" for row in range(200)]), ClassLabels(["label"]), 5, seed)
    assert two.splitter == "stratified" and two.sizes() == [40] * 5
    assert folds_of_classes(two.rows).eq(2).all()
    few = [f"c{size}{number}" for size in (2, 3, 4) for number in range(15) for _ in range(size)]
    mixed = make_folds(pairs(300 + len(few), label=["much"] * 300 + few), ClassLabels(["label"]), 5, seed).rows
    spread = folds_of_classes(mixed)
    assert all(spread[name] == (5 if name == "much" else int(name[1])) for name in spread.index)


def test_each_class_of_several_columns_and_each_group_is_spread() -> None:
    columns = {"label": [f"a{row // 2}" for row in range(200)], "second": [f"b{row % 100}" for row in range(200)]}
    found = make_folds(pairs(200, **columns), ClassLabels(["label", "second"]), 5)
    assert folds_of_classes(found.rows).min() == folds_of_classes(found.rows, "second").min() == 2
    assert found.sizes() == [40] * 5
    groups = [f"g{row // 4}" for row in range(400)]  # two groups in each class
    grouped = make_folds(pairs(400, label=[f"c{row // 8}" for row in range(400)], group=groups), ClassLabels(["label"]))
    assert grouped.splitter == "stratified_group" and grouped.rows.groupby("group")["fold"].nunique().eq(1).all()
    assert folds_of_classes(grouped.rows).eq(2).all()


def test_folds_of_ordinary_rows_are_what_they_were() -> None:
    """Those of scikit-learn, whatever is done for classes of few rows."""
    rows = make_rows()
    rows.loc[:1, "label"] = ["rare a", "rare b"]  # each alone: nothing could train them
    codes = pd.factorize(rows["label"].where(rows.index > 1, "rare"), sort=True)[0]
    splitter = StratifiedKFold(5, shuffle=True, random_state=3)
    expected = np.empty(len(rows), int)
    for fold, (_, valid) in enumerate(splitter.split(codes, codes)):
        expected[valid] = fold
    assert make_folds(rows, ClassLabels(["label"]), 5, seed=3).rows["fold"].tolist() == expected.tolist()


def test_groups_in_several_spellings_stay_together() -> None:
    rows = make_rows(240)
    names = [
        (f"P{row // 4:02}", f"p{row // 4:02} ", f"P{row // 4:02}", f"P{row // 4:02}\u200b")[row % 4]
        for row in range(240)
    ]
    found = make_folds(rows.assign(group=names), ClassLabels(["label"]), 3)
    one = pd.Series(names).str.strip().str.strip("\u200b").str.lower()
    assert found.rows.groupby(one)["fold"].nunique().eq(1).all()
    assert "60 groups stand in spellings" in found.warnings[-1] and "'P00' and 'p00 '" in found.warnings[-1]
    numbers = [("7", "7.0", "07")[row % 3] if row < 60 else f"g{row}" for row in range(240)]
    found = make_folds(rows.assign(group=numbers), ClassLabels(["label"]), 3)
    assert found.rows["fold"][:60].nunique() == 1 and "'7' and '7.0'" in found.warnings[-1]
    clean = make_folds(rows.assign(group=one), ClassLabels(["label"]), 3)
    assert not any("spellings" in note for note in clean.warnings)


def test_the_table_of_folds_shows_classes() -> None:
    rows = make_rows().assign(fold=lambda table: table.index % 2)
    table = FoldTable(rows, 2, "", "by hand")
    counts = rows.groupby(["fold", "label"]).size()
    said = fold_columns(table, ClassLabels(["label"]))
    assert said == {
        "label": [", ".join(f"c{label}: {counts[fold, f'c{label}']}" for label in range(4)) for fold in range(2)]
    }
    many = rows.assign(label=[f"w{row // 3:03}" for row in range(300)])
    many.loc[many["fold"].eq(1).idxmax(), "label"] = "alone"
    said = fold_columns(replace(table, rows=many), ClassLabels(["label"]))
    assert said["label"][0] == "100 of 101 classes, the rarest w001: 1"
    assert said["label: only here"] == ["1 (w000)", "1 (alone)"]
    flags = rows.assign(cat=["1", "0", "0"] * 100, dog=["1.0"] + ["False"] * 299, label="3.5")
    flags.loc[1, "label"] = "-1"
    assert fold_columns(replace(table, rows=flags), Flags(["cat", "dog", "label"])) == {
        "positives": ["cat: 50, dog: 1", "cat: 50, dog: 0"],
        "label": ["mean 3.5, 3.5 to 3.5", "mean 3.47, -1 to 3.5"],
        "positives: only here": ["1 (dog)", ""],
    }


class Flags(ClassLabels):
    named = ("cat", "dog")  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("rows", "asked", "said"),
    [
        (make_rows(3), {}, "3 rows cannot make 5 folds"),
        (make_rows(), {"n_folds": 1}, "2 or more"),
        (make_rows(groups=3), {}, "3 groups cannot make 5 folds"),
        (make_rows(groups=30), {"splitter": "stratified"}, "tear groups apart"),
        (make_rows(), {"splitter": "group"}, "group_column"),
        (
            make_rows().assign(label=lambda rows: rows["label"].where(rows.index > 1)),
            {},
            "column 'label' is empty in 2",
        ),
        (
            make_rows(groups=30).assign(group=lambda rows: rows["group"].where(rows.index > 0)),
            {},
            "column 'group' is empty",
        ),
    ],
)
def test_what_cannot_be_divided(rows: pd.DataFrame, asked: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_folds(rows, ClassLabels(["label"]), **asked)  # type: ignore[arg-type]


def test_other_sources_and_only_fold(project: Project) -> None:
    rows = make_rows(100)
    extra = rows.iloc[:6].assign(
        id=[f"x{number}" for number in range(6)], source="web", only_fold=[np.nan, np.nan, np.nan, 1, 1, 2]
    )
    everything = pd.concat([rows, extra], ignore_index=True)
    write(project, rows)
    loaded = load_folds(project, "folds", everything, SETTINGS)
    assert loaded.rows.loc[loaded.rows["source"] == "web", "fold"].eq(-1).all()
    for fold in range(5):
        train, valid = split(loaded.rows, fold)
        assert valid["source"].eq("competition").all()
        wanted = {"x0", "x1", "x2"} | ({"x3", "x4"} if fold == 1 else set()) | ({"x5"} if fold == 2 else set())
        assert set(train.loc[train["source"] == "web", "id"]) == wanted
    train, valid = split(loaded.rows, "full")
    assert valid.empty
    assert set(train.loc[train["source"] == "web", "id"]) == {"x0", "x1", "x2"}
    assert "which is no fold" in refusal(project, everything.assign(only_fold=lambda table: table["only_fold"] + 4))
    scored = everything.assign(source="competition").iloc[:100].assign(only_fold=1)
    assert "another source" in refusal(project, scored)
    for unknown in ("5", "-1", "x", "1.0"):
        with pytest.raises(UserError, match="there is no fold"):
            split(loaded.rows, unknown)


def test_loading_gives_back_what_was_made(project: Project) -> None:
    rows = make_rows(groups=40)
    made = write(project, rows)
    loaded = load_folds(project, "folds", rows.sample(frac=1, random_state=0), SETTINGS)  # the order does not matter
    assert loaded.rows.set_index("id")["fold"].sort_index().equals(made.set_index("id")["fold"].sort_index())
    assert loaded.warnings == () and loaded.n_folds == 5
    assert (
        loaded.hash
        == make_folds(rows, ClassLabels(["label"])).hash
        == json.loads((project.folds / "folds.json").read_text())["hash"]
    )


def test_lost_and_added_rows_are_refused(project: Project) -> None:
    rows = make_rows(groups=40)
    write(project, rows)
    lost = refusal(project, rows.iloc[2:])
    assert "2 of its rows are gone" in lost and "0.10" in lost and "--force" in lost
    added = refusal(project, pd.concat([rows, rows.iloc[:1].assign(id="new")]))
    assert "1 training rows are not in it (new)" in added
    moved = refusal(project, rows.assign(group=rows["group"].where(rows.index != 7, "elsewhere")))
    assert "1 of its rows are gone" in moved and rows["id"][7] in moved
    assert "300 of its rows are gone" in refusal(project, rows.drop(columns="group"))


def test_a_corrected_label_warns(project: Project) -> None:
    rows = make_rows()
    write(project, rows)
    corrected = rows.assign(label=rows["label"].where(rows.index != 7, "c9"))
    loaded = load_folds(project, "folds", corrected, SETTINGS)
    assert len(loaded.warnings) == 1
    assert f"{rows['id'][7]}: {rows['label'][7]} -> c9" in loaded.warnings[0]
    assert loaded.hash == load_folds(project, "folds", rows, SETTINGS).hash


def test_fold_files_made_by_hand(project: Project) -> None:
    rows = make_rows(60, groups=12)
    codes = pd.factorize(rows["group"])[0] % 3
    project.folds.mkdir()
    path = project.folds / "mine.csv"
    rows[["id"]].assign(fold=codes).to_csv(path, index=False)
    loaded = load_folds(project, "mine", rows, SETTINGS)
    assert (loaded.n_folds, loaded.splitter) == (3, "by hand")
    rows[["id"]].assign(fold=codes - 1).to_csv(path, index=False)  # the first third only trains
    loaded = load_folds(project, "mine", rows, SETTINGS)
    assert loaded.n_folds == 2 and sum(loaded.sizes()) == (codes > 0).sum()
    assert set(loaded.rows["id"][codes == 0]) < set(split(loaded.rows, 0)[0]["id"])
    rows[["id"]].assign(fold=np.arange(60) % 3).to_csv(path, index=False)
    assert "groups lie in several folds" in refusal(project, rows, "mine")
    for folds, said in (
        (codes * 2, "are expected"),
        (codes * 0, "one fold only"),
        (codes * 0 - 1, "are expected"),
        (codes - 2, "the fold '-2'"),
        (codes + 0.5, "whole numbers"),
    ):
        rows[["id"]].assign(fold=folds).to_csv(path, index=False)
        assert said in refusal(project, rows, "mine")
    rows[["id"]].assign(fold=codes).iloc[[0, *range(60)]].to_csv(path, index=False)
    assert "more than once" in refusal(project, rows, "mine")
    rows[["id"]].to_csv(path, index=False)
    assert "no column 'fold'" in refusal(project, rows, "mine")


def test_an_edited_fold_file(project: Project) -> None:
    rows = make_rows()
    write(project, rows)
    path = project.folds / "folds.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[0, "fold"] = "9"
    table.to_csv(path, index=False)
    assert "0 to 4 are expected" in refusal(project, rows)
    table.loc[0, "fold"] = str((int(pd.read_csv(path, dtype=str).loc[1, "fold"]) + 1) % 5)
    before = make_folds(rows, ClassLabels(["label"])).hash
    table.loc[:9, "fold"] = table.loc[:9, "fold"].iloc[::-1].to_numpy()
    table.to_csv(path, index=False)
    loaded = load_folds(project, "folds", rows, SETTINGS)
    assert "edited" in loaded.warnings[0]
    assert loaded.hash != before


def test_unknown_names(project: Project) -> None:
    rows = make_rows()
    assert "scripts/make_folds.py" in refusal(project, rows)
    write(project, rows)
    assert "did you mean 'folds'" in refusal(project, rows, "fold")
    for name in ("../x", "", "classes"):
        assert "cannot name" in refusal(project, rows, name)


class NoLabels(ClassLabels):
    """As where every identity is the unknown one."""

    def cells(self, rows: pd.DataFrame, column: str) -> pd.Series:
        return rows[column].iloc[:0]


def test_class_order(project: Project) -> None:
    assert class_order(["10", "9", "0", "10"]) == ["0", "9", "10"]
    assert class_order(["b", "10", "9"]) == ["10", "9", "b"]
    assert class_order(["nan", "1", "0"]) == ["0", "1", "nan"]
    rows = make_rows()
    assert write_classes(project, (rows, ClassLabels(["label"]))) == {"label": ["c0", "c1", "c2", "c3"]}
    by_hand = {"label": ["c2", "c0", "c1", "c3"]}
    (project.folds / "classes.json").write_text(json.dumps(by_hand))
    assert write_classes(project, (rows, ClassLabels(["label"]))) == by_hand
    assert write_classes(project, (rows[rows["label"] != "c2"], ClassLabels(["label"]))) == {
        "label": ["c0", "c1", "c3"]
    }
    with pytest.raises(UserError, match="one class only"):
        write_classes(project, (rows.assign(label="c0"), ClassLabels(["label"])))
    with pytest.raises(UserError, match="'label' holds no class; there is nothing to learn"):
        write_classes(project, (rows, NoLabels(["label"])))


def test_the_script_writes_once_and_demo_folds_step_aside(renders: Renders, tmp_path: Path) -> None:
    house = renders.copy(tmp_path / "project")
    data, folds = house / "data/raw", house / "folds/folds.csv"
    assert run_script(house, "make_demo_data.py").status == 0
    made = run_script(house, "make_folds.py", "--no-leak-report")
    assert made.status == 0, made
    first = folds.read_text()
    assert json.loads((house / "folds/folds.json").read_text())["demo"] is True
    again = run_script(house, "make_folds.py")
    assert (again.status, folds.read_text()) == (0, first)
    assert "nothing to do" in again.stdout
    assert run_script(house, "make_folds.py", "--n-folds", "3", "--no-leak-report").status == 0  # the demo's: replaced
    # Real data arrive, unpacked over the demo.
    table = pd.read_csv(data / "train.csv", dtype=str).iloc[100:400]
    table.assign(label=np.where(np.arange(300) % 2, "cat", "dog")).to_csv(data / "train.csv", index=False)
    replaced = run_script(house, "make_folds.py", "--no-leak-report")
    assert replaced.status == 0 and "is replaced" in replaced.stdout
    contract = json.loads((house / "folds/folds.json").read_text())
    assert (contract["demo"], sum(contract["rows_per_fold"])) == (False, 300)
    assert json.loads((house / "folds/classes.json").read_text()) == {"label": ["cat", "dog"]}
    real = folds.read_text()
    for arguments in (["--n-folds", "3"], ["--seed", "1"], ["--splitter", "plain"]):
        refused = run_script(house, "make_folds.py", *arguments)
        assert (refused.status, folds.read_text()) == (2, real)
        assert "--force" in refused.last_line
    table.iloc[5:].assign(label="cat").to_csv(data / "train.csv", index=False)
    assert "gone" in run_script(house, "make_folds.py").last_line
    assert folds.read_text() == real
    table.assign(label=np.where(np.arange(300) % 2, "cat", "dog")).to_csv(data / "train.csv", index=False)
    assert run_script(house, "make_folds.py", "--seed", "1", "--force", "--no-leak-report").status == 0
    assert folds.read_text() != real
    assert run_script(house, "make_folds.py", "--name", "ten", "--n-folds", "10", "--no-leak-report").status == 0
    assert (house / "folds/ten.csv").is_file()
