"""Wrong answers are refused before anything is written, with a last line that names the question and the remedy."""

import re
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

from projects import ROOT, Renders, copier_command, copy_template, files, render

# answers -> what the message must hold: the key, and the remedy
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "competition empty": ({"competition": ""}, "competition.*type the last part"),
    "competition as a title": ({"competition": "Digit Recognizer"}, "competition.*lower-case letters, digits"),
    "competition as an address": ({"competition": "kaggle.com/c/digits"}, "competition.*last part only"),
    "competition with two hyphens": ({"competition": "a--b"}, "competition.*single hyphens"),
    "competition with an underscore": ({"competition": "a_b"}, "competition.*hyphens"),
    "competition with a line break": ({"competition": "digits\n"}, "competition.*line break.*remove it"),
    "competition without end": ({"competition": "x" * 101}, "competition.*lower-case letters"),
    "unknown key": ({"metrics": "accuracy"}, "'metrics' is no question.*use one of.*metric"),
    "unknown key of copier's look": ({"_task": "x"}, "'_task' is no question.*remove it"),
    "task that does not exist": ({"task": "clasification"}, r"'task'.*not in \['classification'"),
    "task empty": ({"task": ""}, r"'task'.*not in \['classification'"),
    "framework that does not exist": ({"framework": "keras"}, r"'framework'.*not in \['lightning'"),
    "submission type that does not exist": ({"submission_type": "json"}, r"'submission_type'.*not in \['csv'"),
    "metric that does not exist": ({"metric": "acc"}, r"'metric'.*not in \['accuracy', 'balanced_accuracy'"),
    "trackers as a bare word": ({"trackers": "wandb"}, r"trackers.*-d 'trackers=\[wandb\]'"),
    "trackers empty": ({"trackers": ""}, r"trackers.*-d 'trackers=\[\]' for none"),
    "trackers half a list": ({"trackers": "[wandb"}, "trackers.*write it in brackets"),
    "trackers as a mapping": ({"trackers": {"wandb": True}}, "trackers.*write a list"),
    "tracker that does not exist": ({"trackers": ["mlflow"]}, r"'trackers'.*'mlflow' is not in \['wandb'"),
    "table empty": ({"train_csv": ""}, "'train_csv'.*type a path below the data folder"),
    "table absolute": ({"train_csv": "/data/train.csv"}, "'train_csv'.*not relative"),
    "table on a drive": ({"train_csv": "C:/train.csv"}, "'train_csv'.*not relative"),
    "table outside": ({"train_csv": "../train.csv"}, "'train_csv'.*leaves the data folder"),
    "table with a backslash": ({"train_csv": "tables\\train.csv"}, "'train_csv'.*separate folders by /"),
    "table in an unnamed folder": ({"train_csv": "tables//train.csv"}, "'train_csv'.*write it like folder/file"),
    "table that is no csv": ({"train_csv": "train.tsv"}, "'train_csv'.*does not end in .csv.*tables.py"),
    "table as a pattern": ({"train_csv": "{fold}.csv"}, "'train_csv'.*path of one table"),
    "id empty": ({"id_column": ""}, "'id_column'.*name of one column"),
    "id of several columns": ({"id_column": "id,image"}, "'id_column'.*one column only"),
    "id with a space at its end": ({"id_column": "id "}, "'id_column'.*space; remove it"),
    "id with a line break": ({"id_column": "image\nid"}, "'id_column'.*line break.*remove it"),
    "id in braces": ({"id_column": "{id}"}, "'id_column'.*type the column's name alone"),
    "id as a number": ({"id_column": 8}, "id_column: 8 is not text; put it in quotes"),
    "id as a truth value": ({"id_column": True}, "id_column: true is not text; put it in quotes"),
    "id as nothing": ({"id_column": None}, "id_column: null is not text; put it in quotes"),
    "id that is a target": ({"target_columns": "a, image_id"}, "'image_id' is one of target_columns.*name another"),
    "targets empty": ({"target_columns": " "}, "'target_columns'.*name the columns like this"),
    "targets with a gap": ({"target_columns": "a,,b"}, "'target_columns'.*name the columns like this"),
    "target named twice": ({"target_columns": "a, b, a"}, "'target_columns'.*'a' stands there twice"),
    "targets as a list": ({"target_columns": ["a", "b"]}, "target_columns:.*one text with commas"),
    "targets that are the default id": (
        {"id_column": "label"},
        "'label' is id_column.*name the columns with the truth",
    ),
    "target with an invisible space": ({"target_columns": "a\u200bb"}, "'target_columns'.*invisible.*remove it"),
    "group that is the id": ({"group_column": "image_id"}, "'image_id' is group_column too.*set group_column"),
    "group that is a target": ({"group_column": "label"}, "'label' is group_column too.*set group_column"),
    "groups": ({"group_column": "site,patient"}, "'group_column'.*one column only"),
    "pattern empty": ({"test_images": ""}, "'test_images'.*type a path"),
    "pattern without a column": ({"train_images": "train/image.png"}, "'train_images'.*put a column in braces"),
    "pattern absolute": ({"train_images": "/train/{image_id}.png"}, "'train_images'.*not relative"),
    "pattern at home": ({"test_images": "~/{image_id}.png"}, "'test_images'.*not relative"),
    "pattern outside": ({"train_images": "a/../../{image_id}.png"}, "'train_images'.*leaves the data folder"),
    "pattern half open": ({"train_images": "train/{image_id"}, "'train_images'.*braces that do not pair"),
    "pattern closed twice": ({"train_images": "train/{image_id}}"}, "'train_images'.*braces that do not pair"),
    "pattern of nothing": ({"train_images": "train/{}.png"}, "'train_images'.*braces that do not pair"),
    "pattern in double braces": ({"train_images": "{{image_id}}.png"}, "'train_images'.*braces that do not pair"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_nothing_written(case: str, renders: Renders, tmp_path: Path) -> None:
    answers, message = BAD[case]
    with pytest.raises(ValueError) as error:
        render(renders.template, tmp_path / "project", answers)
    assert re.search(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value), "only the last line of a traceback is read"
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("metrics=accuracy", "'metrics' is no question of this template; remove it, or use one of: .*metric"),
        ("id_column=a,b", "question 'id_column': 'a,b' holds a comma; name one column only"),
        ("metric=acc", "'metric': 'acc' is not in .*'accuracy'"),
    ],
)
def test_last_line_of_the_command_names_key_and_remedy(
    answer: str, message: str, renders: Renders, tmp_path: Path
) -> None:
    done = copier_command("copy", "--defaults", "-d", answer, str(renders.template), str(tmp_path / "project"))
    assert done.returncode != 0
    assert re.search(message, done.stderr.strip().splitlines()[-1]), done.stderr
    assert not (tmp_path / "project").exists()


def test_a_good_copy_needs_no_trust_and_ends_with_three_commands(renders: Renders, tmp_path: Path) -> None:
    target = tmp_path / "my [own] competition"
    done = copier_command("copy", "--defaults", str(renders.template), str(target))
    assert "from a folder without git, so this repository can never be updated" in done.stderr + done.stdout
    assert done.returncode == 0, done.stderr
    commands = [line.strip() for line in done.stderr.rstrip().splitlines()[-3:]]
    assert commands == [f"cd '{target}'", "make setup", "make demo"]
    assert not re.search(r"\bwarning", done.stderr, flags=re.IGNORECASE)


def test_task_cannot_change_later(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    folder = tmp_path / "a folder [1]"  # brackets mean something to a search for files
    for task in ("multilabel", "classification"):
        render(template, folder / task, {"task": task})
        assert yaml.safe_load((folder / task / ".copier-answers.yml").read_text())["task"] == task
    before = files(folder / "classification")
    project, options = folder / "classification", {"defaults": True, "overwrite": True, "quiet": True}
    refused = r"'task': task cannot change from classification to multilabel, because .*; .*copy a new project"
    with pytest.raises(ValueError, match=refused):
        copier.run_copy(str(template), project, data={"task": "multilabel"}, **options)
    with pytest.raises(ValueError, match=refused):
        copier.run_recopy(project, data={"task": "multilabel"}, **options)
    assert files(project) == before
    copier.run_recopy(folder / "multilabel", data={"task": "multilabel"}, **options)


def test_every_question_is_known_and_has_a_default() -> None:
    config = yaml.safe_load((ROOT / "copier.yml").read_text())
    questions = [name for name in config if not name.startswith("_")]
    known = re.search(r"set names = \[(.*?)\]", (ROOT / "includes/checks.jinja").read_text(), re.DOTALL)
    assert known is not None
    assert re.findall(r'"(\w+)"', known.group(1)) == questions
    for name in questions:
        assert "default" in config[name], f"{name}: `copier update --defaults` would stop"
        assert config[name]["help"].strip()
    assert not {"_tasks", "_jinja_extensions"} & set(config), "they would force --trust on everyone"
