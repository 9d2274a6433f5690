"""From tables to batches: rows, folds, samples, and what is refused on the way."""

import shutil

import pandas as pd
import pytest
import torch

from drawn import NAMES
from pipeline.data.checks import check_data
from pipeline.data.folds import load_folds, make_folds, split
from pipeline.data.labels import labels_of
from pipeline.keys import INPUT_ID, INPUT_IMAGE, INPUT_ROW, INPUT_WEIGHT
from pipeline.tasks import Task
from small_project import SmallProject
from toolkit.errors import UserError
from toolkit.images.readers import image


def read_folds(project: SmallProject) -> pd.DataFrame:
    """The training rows with their folds."""
    rows = project.competition.train_rows(project.project.data)
    return load_folds(project.project, "folds", rows, project.competition.settings).rows


def change_table(project: SmallProject, table: pd.DataFrame) -> None:
    """Another train.csv, as after a correction or a new download."""
    table.to_csv(project.project.data / "train.csv", index=False)


def test_a_batch_is_a_dict(project: SmallProject) -> None:
    """Images stay uint8 HWC until they are on the device; the model answers under keys of its own."""
    setup = project.prepare("small")
    task: Task = setup.task
    dataset = task.dataset(setup.folds.rows, project.project.data, setup.config, setup.names, "train")
    batch = task.collate([dataset[(0, row)] for row in range(4)])
    assert batch[INPUT_ID] == ["0000", "0001", "0002", "0003"]
    forms = {key: (value.dtype, tuple(value.shape)) for key, value in batch.items() if key != INPUT_ID}
    assert forms.pop("target_shape")[1][0] == 4  # the rest of its form is the head's
    assert forms == {
        INPUT_ROW: (torch.int64, (4,)),
        INPUT_IMAGE: (torch.uint8, (4, 24, 24, 3)),
        INPUT_WEIGHT: (torch.float32, (4,)),
    }
    outputs = task.model(setup.config, setup.names, pretrained=False)(batch)
    assert task.batch_schema(batch, outputs), "what does not fit the head is an error"
    assert not set(outputs) & set(batch)


def test_augmentations_follow_from_epoch_and_row(project: SmallProject) -> None:
    """So the number of workers changes nothing, and a run that goes on sees what an unbroken one would."""
    setup = project.prepare("small")
    dataset = setup.task.dataset(setup.folds.rows, project.project.data, setup.config, setup.names, "train")

    def epoch(number: int) -> list[bytes]:
        return [dataset[(number, row)][INPUT_IMAGE].tobytes() for row in range(8)]

    first, second = epoch(0), epoch(1)
    assert first != second
    assert epoch(0) == first


def test_folds_do_not_leak(project: SmallProject) -> None:
    rows = read_folds(project)
    assert (rows.groupby("group")["fold"].nunique() == 1).all()  # a series stays together
    assert (rows.groupby(["fold", "shape"]).size() == 10).all()  # and each fold has its share of every shape
    for fold in (0, 1):
        train, valid = split(rows, fold)
        assert not set(train["id"]) & set(valid["id"])
        assert len(train) + len(valid) == 60


def test_folds_do_not_depend_on_the_order_of_the_table(project: SmallProject) -> None:
    before = read_folds(project).set_index("id")["fold"]
    change_table(project, project.table("train.csv")[::-1])
    assert read_folds(project).set_index("id")["fold"].loc[before.index].equals(before)


def test_rows_that_are_lost_or_new_are_refused(project: SmallProject) -> None:
    table = project.table("train.csv")
    change_table(project, table[1:])
    with pytest.raises(UserError, match=r"made for other data: 1 of its rows are gone .*\(0000\)"):
        project.prepare("small")
    new = pd.DataFrame({"picture": ["0060"], "shape": [NAMES["circle"]], "series": ["s30"]})
    change_table(project, pd.concat([table, new]))
    with pytest.raises(UserError, match=r"1 training rows are not in it \(0060\)"):
        project.prepare("small")


def test_a_corrected_label_is_a_warning(project: SmallProject) -> None:
    table = project.table("train.csv")
    table.loc[0, "shape"] = NAMES["square"]
    change_table(project, table)
    assert f"0000: {NAMES['circle']} -> {NAMES['square']}" in project.prepare("small").folds.warnings[0]


def test_rows_of_another_source_train_and_are_never_scored(project: SmallProject) -> None:
    rows = project.competition.train_rows(project.project.data)
    extra = rows[:2].assign(id=["extra", "pseudo"], source="external", only_fold=[float("nan"), 1])
    folds = make_folds(pd.concat([rows, extra], ignore_index=True), labels_of(project.competition), n_folds=2)
    for fold, trains in ((0, {"extra"}), (1, {"extra", "pseudo"})):
        train, valid = split(folds.rows, fold)
        assert set(train["id"]) & {"extra", "pseudo"} == trains
        assert not set(valid["id"]) & {"extra", "pseudo"}


def test_a_copy_in_another_fold_is_reported(project: SmallProject) -> None:
    rows = read_folds(project)
    here, there = (rows.loc[rows["fold"] == fold, "id"].iloc[0] for fold in (0, 1))
    pictures = project.project.data / "pictures"
    shutil.copy(pictures / f"{here}.png", pictures / f"{there}.png")
    project.make_folds(force=True)
    leaks = pd.read_csv(project.root / "folds" / "folds.leaks.csv", dtype=str)
    found = leaks[leaks["kind"] == "identical"]
    assert {*found["id_a"], *found["id_b"]} == {here, there}


def test_a_missing_image_names_row_and_path(project: SmallProject) -> None:
    (project.project.data / "pictures" / "0007.png").unlink()
    with pytest.raises(UserError, match=r"row \d+ \(id 0007\): there is no image .*pictures.0007\.png"):
        project.train("small", fold="0")


def test_all_bad_images_are_found_beforehand(project: SmallProject) -> None:
    pictures = project.project.data / "pictures"
    (pictures / "0007.png").unlink()
    (pictures / "0061.png").unlink()
    (pictures / "0011.png").write_bytes((pictures / "0011.png").read_bytes()[:200])
    with pytest.raises(UserError, match=r"3 faults in the data .*2 x missing image.*1 x truncated image"):
        check_data(project.project, project.competition, image, "folds")
