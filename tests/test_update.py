"""A project that its owner has edited is updated by the real copier and git, and keeps every edit."""

import os
import re
import subprocess
from pathlib import Path

import copier
import pytest
import yaml
from ruamel.yaml import YAML

from projects import copier_command, copy_template, files, run_script
from training import SMALL, expect

pytestmark = pytest.mark.slow  # several seconds each: an update renders three times and calls git dozens of times

USER_ZONE = ("src/competition", "experiments", "folds")


def git(folder: Path, *args: str) -> str:
    """Run git with an identity of its own, whatever the machine has configured."""
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com"}
    committer = {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com", "GIT_CONFIG_GLOBAL": os.devnull}
    environment = {**os.environ, **identity, **committer}
    return subprocess.run(
        ["git", *args], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


def commit(folder: Path, message: str, tag: str = "") -> None:
    """Commit everything, in a new repository where there is none."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    if tag:
        git(folder, "tag", tag)


def change(path: Path, old: str, new: str) -> None:
    """Replace the first `old`, which must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} does not hold {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def zone(project: Path) -> dict[str, bytes]:
    """The user's files."""
    return {f"{part}/{name}": data for part in USER_ZONE for name, data in files(project / part).items()}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """The template in a repository of its own, tagged v0.1.0."""
    folder = copy_template(tmp_path / "template")
    commit(folder, "first version", "v0.1.0")
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A committed project, copied at the tag."""
    target = tmp_path / "project"
    copier.run_copy(str(template), target, defaults=True, quiet=True)
    commit(target, "copy the template")
    assert yaml.safe_load((target / ".copier-answers.yml").read_text())["_commit"] == "v0.1.0"
    return target


def test_a_template_that_was_given_by_a_relative_path(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(template)
    copier.run_copy(".", tmp_path / "project", defaults=True, quiet=True)
    commit(tmp_path / "project", "copy the template")
    change(template / "template/Makefile", "update:", "# newer\nupdate:")
    commit(template, "second version", "v0.2.0")
    monkeypatch.chdir(tmp_path / "project")
    copier.run_update(defaults=True, overwrite=True, quiet=True)
    assert "# newer" in Path("Makefile").read_text()
    assert yaml.safe_load(Path(".copier-answers.yml").read_text())["_src_path"] == str(template)
    address = f"git+file://{template}"
    copier.run_copy(address, tmp_path / "other", defaults=True, quiet=True)
    assert yaml.safe_load((tmp_path / "other/.copier-answers.yml").read_text())["_src_path"] == address


def edit_as_a_user(project: Path) -> None:
    """Edits in both zones, committed."""
    tables = project / "src" / "competition" / "tables.py"
    tables.write_text(tables.read_text() + "\nMINE = True\n")
    (project / "src" / "competition" / "losses.py").write_text("MINE = 1\n")
    (project / "src" / "competition" / "augmentations.py").unlink()
    baseline = project / "experiments" / "baseline.yaml"
    baseline.write_text(baseline.read_text() + "\nseed: 7\n")
    (project / "experiments" / "mine.yaml").write_text("extends: baseline\n")
    (project / "folds" / "folds.csv").write_text("id,fold\n1,0\n")
    change(project / "competition.yaml", "test_csv: test.csv", "test_csv: tables/mine.csv")
    change(project / "pyproject.toml", "competition = [\n", 'competition = [\n  "pydicom>=3",\n')
    change(project / "README.md", "\n\n", "\n\nA line of my own.\n\n")
    keys = project / "src" / "pipeline" / "keys.py"
    keys.write_text(keys.read_text() + '\nMINE = "mine"\n')
    (project / "src" / "pipeline" / "mine.py").write_text("MINE = 2\n")
    commit(project, "my edits")


def release(template: Path) -> None:
    """Version v0.2.0: the pipeline improves in lines that are near no edit, and the user zone's first files change."""
    root = template / "template"
    change(root / "src" / "pipeline" / "keys.py", "Every dict key", "Each dict key")
    (root / "src" / "pipeline" / "new.py").write_text('"""New in this version."""\n')
    change(root / "pyproject.toml.jinja", "torch>=2.6", "torch>=2.7")
    change(root / "competition.yaml.jinja", "# What is handed in.", "# The form of what is handed in.")
    tables = template / "variants/image_level/competition/tables.py"
    tables.write_text("# rewritten\n" + tables.read_text())
    (root / "src" / "competition" / "example.py").write_text("NEW = 1\n")
    (root / "experiments" / "demo.yaml.jinja").unlink()
    (root / "experiments" / "example.yaml").write_text("extends: baseline\n")
    (root / "folds" / "example.md").write_text("# New\n")
    (root / "folds" / "README.md").write_text("# Rewritten\n")
    commit(template, "second version", "v0.2.0")


def assert_merged(project: Path) -> None:
    """No conflict is left, in the index or in a file."""
    assert git(project, "ls-files", "--unmerged") == ""
    for name, data in files(project).items():
        if not name.startswith(".git/"):
            assert not name.endswith((".rej", ".orig")), name
            assert not re.search(rb"^(<<<<<<<|=======|>>>>>>>)", data, re.MULTILINE), name


def test_update_keeps_every_edit(template: Path, project: Path) -> None:
    edit_as_a_user(project)
    mine = zone(project)
    release(template)

    done = copier_command("update", "--defaults", str(project))

    assert done.returncode == 0, done.stderr
    assert_merged(project)
    assert zone(project) == mine, "an update never looks at the user's zone"
    keys = (project / "src" / "pipeline" / "keys.py").read_text()
    assert "Each dict key" in keys and keys.endswith('\nMINE = "mine"\n')
    assert (project / "src" / "pipeline" / "new.py").is_file()
    assert (project / "src" / "pipeline" / "mine.py").read_text() == "MINE = 2\n"
    settings = (project / "competition.yaml").read_text()
    assert "test_csv: tables/mine.csv" in settings and "The form of what is handed in" in settings
    pyproject = (project / "pyproject.toml").read_text()
    assert "pydicom>=3" in pyproject and "torch>=2.7" in pyproject
    assert "A line of my own." in (project / "README.md").read_text()
    assert yaml.safe_load((project / ".copier-answers.yml").read_text())["_commit"] == "v0.2.0"


def test_a_changed_answer_reaches_the_code(project: Path) -> None:
    edit_as_a_user(project)
    mine = zone(project)

    answers = ("-d", "metric=f1_macro", "-d", "trackers=[tensorboard]", "-d", "group_column=patient")
    done = copier_command("update", "--skip-answered", *answers, str(project))

    assert done.returncode == 0, done.stderr
    assert_merged(project)
    assert zone(project) == mine
    settings = YAML(typ="safe", pure=True).load(project / "competition.yaml")
    assert settings["metric"] == "f1_macro"
    assert settings["trackers"] == ["tensorboard"]
    assert settings["group_column"] == "patient"
    assert settings["test_csv"] == "tables/mine.csv"
    assert "wandb" not in (project / "pyproject.toml").read_text()


@pytest.mark.parametrize("answers", [{"metric": "acc"}, {"metrics": "accuracy"}, {"id_column": "label"}])
def test_a_wrong_answer_changes_nothing(answers: dict[str, str], project: Path) -> None:
    with pytest.raises(ValueError, match=f"'{next(iter(answers))}'"):
        copier.run_update(project, data=answers, defaults=True, overwrite=True, quiet=True)
    assert git(project, "status", "--porcelain", "--ignored") == ""


def test_update_refuses_another_task(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    commit(template, "the template", "v0.1.0")
    project = tmp_path / "project"
    copier.run_copy(str(template), project, defaults=True, quiet=True)
    commit(project, "copy the template")

    done = copier_command("update", "--defaults", "-d", "task=multilabel", str(project))

    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "'task': task cannot change from classification to multilabel, because" in last
    assert "copy a new project with task=multilabel" in last
    assert git(project, "status", "--porcelain") == ""
    copier.run_update(project, data={"task": "classification"}, defaults=True, overwrite=True, quiet=True)


def test_a_second_room_can_come_and_not_go(template: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    copier.run_copy(str(template), project, data={"task": "segmentation"}, defaults=True, quiet=True)
    commit(project, "copy the template")
    edit_as_a_user(project)
    mine, room = zone(project), project / "src/pipeline/tasks/image_level"
    assert not room.exists()

    done = copier_command("update", "--defaults", "-d", "extra_tasks=[classification]", str(project))

    assert done.returncode == 0, done.stderr
    assert_merged(project)
    assert zone(project) == mine and room.is_dir()
    commit(project, "a second room")
    done = copier_command("update", "--defaults", "-d", "extra_tasks=[]", str(project))
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "'extra_tasks': classification cannot go again, because stages and runs" in last
    assert git(project, "status", "--porcelain") == "" and room.is_dir()


def test_recopy_keeps_the_user_zone(template: Path, project: Path) -> None:
    edit_as_a_user(project)
    mine = zone(project)
    release(template)

    copier.run_recopy(project, defaults=True, overwrite=True, quiet=True)

    # a copy brings new files into the zone as well, but none over one that is there
    assert {name: data for name, data in zone(project).items() if name in mine} == mine
    assert (project / "src" / "pipeline" / "new.py").is_file()


def test_another_framework_goes_on_with_the_runs(project: Path) -> None:
    """Edits of the user are kept, the other framework is gone, and the runs that are there count."""
    (project / "experiments/small.yaml").write_text(SMALL)
    tables = project / "src/competition/tables.py"
    tables.write_text(tables.read_text() + "\nMINE = True\n")
    change(project / "README.md", "The repository of one Kaggle competition", "My repository of one competition")
    change(project / "pyproject.toml", "competition = [\n", 'competition = [\n  "pydicom>=3",\n')
    for script in ("make_demo_data.py", "make_folds.py"):
        expect(run_script(project, script))
    commit(project, "my edits")
    expect(run_script(project, "train.py", "small", "--fold", "0"))
    mine, weights = zone(project), (project / "runs/small/fold_0/best.safetensors").read_bytes()

    done = copier_command("update", "--defaults", "-d", "framework=ignite", str(project))

    assert done.returncode == 0, done.stderr
    assert_merged(project)
    assert zone(project) == mine
    pyproject = (project / "pyproject.toml").read_text()
    assert "pytorch-ignite" in pyproject and "lightning" not in pyproject and "pydicom>=3" in pyproject
    assert "lightning" not in (project / "src/pipeline/engine/__init__.py").read_text()
    assert "My repository of one competition" in (project / "README.md").read_text()
    said = expect(run_script(project, "train.py", "small", "--fold", "0")).stdout
    assert "begun with lightning, and ignite goes on" in said and "nothing to do" in said
    expect(run_script(project, "train.py", "small", "--fold", "1"))
    assert (project / "runs/small/fold_0/best.safetensors").read_bytes() == weights
    for fold in ("0", "1"):
        expect(run_script(project, "predict.py", "small", "--fold", fold))


def test_an_edited_engine_is_a_conflict_and_not_a_loss(project: Path) -> None:
    """The one file that another framework replaces: what the user changed in it is shown, never dropped in silence."""
    engine = project / "src/pipeline/engine/__init__.py"
    engine.write_text(engine.read_text() + "\n\nMINE = 1\n")
    commit(project, "my edit")
    copier_command("update", "--defaults", "-d", "framework=fastai", str(project))
    assert "MINE = 1" in engine.read_text() and "src/pipeline/engine/__init__.py" in git(
        project, "ls-files", "--unmerged"
    )
