"""Every variant renders into a tree that passes its own linters and holds nothing that was not chosen."""

import ast
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ruamel.yaml import YAML

from engines import ENGINES
from projects import ROOT, Renders, files, imported

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "tensorboard": {"trackers": ["tensorboard"]},
    "both-trackers": {"trackers": ["wandb", "tensorboard"]},
    "no-tracker": {"trackers": []},
    "ignite": {"framework": "ignite"},
    "fastai": {"framework": "fastai", "trackers": ["tensorboard"]},
    "catalyst": {"framework": "catalyst", "trackers": []},
    "multilabel": {"task": "multilabel", "trackers": []},
    "one-label-column": {"task": "multilabel", "trackers": [], "target_columns": "labels", "metric": "f1_samples"},
    "regression": {"task": "regression", "trackers": []},
    "grades": {"task": "regression", "trackers": [], "metric": "quadratic_weighted_kappa"},
    "multitask": {"task": "multitask", "trackers": []},
    "metric-learning": {"task": "metric_learning", "trackers": []},
    "segmentation": {"task": "segmentation", "trackers": []},
    "two-tasks": {"task": "segmentation", "extra_tasks": ["classification"], "trackers": []},
    "odd-names": {
        "competition": "2024",
        "trackers": [],
        "metric": "log_loss",
        "train_csv": "labels/Train: set #1.csv",
        "id_column": 'Image "ID": #1',
        "target_columns": "Class Label, a.b , 007,- x,yes,Größe,🦜",
        "group_column": "Patient's [ID] \\ & site",
        "train_images": '{Class Label}/{Image "ID": #1}',
        "test_images": "test/%s & 'co' {1e3}.jpg",
    },
}
AS_ANOTHER = ("odd-names", "one-label-column", "grades")  # their code is that of another variant
CODE_VARIANTS = [name for name in VARIANTS if name not in AS_ANOTHER]

TASK_WORDS = {  # word -> the tasks that may say it
    "classification": ["classification", "multitask"],
    "multiclass": ["classification", "multitask"],
    "ordinal": ["classification", "multitask"],
    "corn": ["classification", "multitask"],
    "multilabel": ["multilabel", "multitask"],
    "iterstrat": ["multilabel", "multitask"],
    "regression": ["regression", "multitask"],
    "rmse": ["regression", "multitask"],
    "metric_learning": ["metric_learning"],
    "arcface": ["metric_learning", "multitask"],
    "identities": ["metric_learning", "multitask"],
    "multitask": ["multitask"],
    "segmentation": ["segmentation"],
}
TASK_DEFAULTS = {  # target_columns and metric
    "classification": ("label", "accuracy"),
    "multilabel": ("even, prime, loop, large", "roc_auc"),
    "regression": ("ink", "rmse"),
    "metric_learning": ("identity", "map_at_5"),
    "multitask": ("digit, loop, ink", "balanced_accuracy"),
    "segmentation": ("mask", "dice"),
}


def task_of(name: str) -> str:
    return str(VARIANTS[name].get("task", "classification"))


variant = pytest.mark.parametrize("name", VARIANTS)


def texts(project: Path) -> dict[str, str]:
    """Every file of a render, without the caches of tools; all of them are text."""
    rendered = files(project).items()
    return {path: data.decode() for path, data in rendered if not any(p.endswith("_cache") for p in path.split("/"))}


def check(project: Path, *command: str) -> None:
    """Run a tool in the project; what it complains about becomes the failure."""
    environment = {**os.environ, "PYTHONPATH": "src"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode != 0:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def script(name: str) -> str:
    """A tool installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


@variant
def test_no_residue_and_no_empty_file(name: str, renders: Renders) -> None:
    for path, text in texts(renders.shared(VARIANTS[name])).items():
        assert text.strip(), f"{path} is empty"
        assert not re.search(r"\.jinja|[{}%]", path), f"{path} was not rendered"
        residue = "{%" if path.endswith(".py") else r"{%|%}|{#|{{"  # f-strings hold {{ and :%}
        assert not re.search(residue, text), f"{path} holds Jinja"


@variant
def test_nothing_that_was_not_chosen(name: str, renders: Renders) -> None:
    chosen = VARIANTS[name].get("trackers", ["wandb"])
    asked = {task_of(name), *VARIANTS[name].get("extra_tasks", [])}
    words = [word for word, tasks in TASK_WORDS.items() if not asked & set(tasks)]
    words += [engine for engine in ENGINES if engine != VARIANTS[name].get("framework", "lightning")]
    words += [] if "wandb" in chosen else ["wandb", "weights & biases", r"w&b"]
    words += [] if "tensorboard" in chosen else ["tensorboard"]
    mentions = [
        f"{path}: {found.group()}"
        for path, text in texts(renders.shared(VARIANTS[name])).items()
        for found in re.finditer(rf"\b({'|'.join(words)})\b", f"{path}\n{text}", re.IGNORECASE)
    ]
    assert not mentions


@variant
def test_no_path_of_this_machine(name: str, renders: Renders) -> None:
    project = renders.shared(VARIANTS[name])
    for path, text in texts(project).items():
        if path != ".copier-answers.yml":  # which names where the template came from
            for place in (str(ROOT), str(Path.home()), str(project)):
                assert place not in text, path


@variant
def test_answers_arrive_in_competition_yaml(name: str, renders: Renders) -> None:
    project = renders.shared(VARIANTS[name])
    answers = {
        "competition": "digits-demo",
        "task": "classification",
        "framework": "lightning",
        "metric": TASK_DEFAULTS[task_of(name)][1],
        "trackers": ["wandb"],
        "submission_type": "csv",
        "train_csv": "train.csv",
        "id_column": "image_id",
        "target_columns": TASK_DEFAULTS[task_of(name)][0],
        "group_column": "",
        "train_images": "train_images/{image_id}.png",
        "test_images": "test_images/{image_id}.png",
        **VARIANTS[name],
    }
    remembered = yaml.safe_load((project / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert {key: remembered[key] for key in answers} == answers
    with (project / "competition.yaml").open(encoding="utf-8") as file:
        read = YAML(typ="safe", pure=True).load(file)
    for key in ("framework", "extra_tasks"):  # which no code has to know
        answers.pop(key, None)
    several = {} if answers["task"] == "segmentation" else {"prediction_column": "", "side_columns": []}
    assert read == {
        **answers,
        "target_columns": [column.strip() for column in answers["target_columns"].split(",")],
        "test_csv": "test.csv",
        "sample_submission": "sample_submission.csv",
        **several,
    }


def test_image_patterns_follow_the_id_column(renders: Renders) -> None:
    project = renders.shared({"id_column": "Image Name"})
    assert '"train_images/{Image Name}.png"' in (project / "competition.yaml").read_text()


def test_our_environment_runs_every_variant(renders: Renders) -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    needed: set[str] = set()
    for engine, task in itertools.product(ENGINES, TASK_DEFAULTS):
        answers = {**VARIANTS["both-trackers"], "framework": engine, "task": task}
        rendered = tomllib.loads((renders.shared(answers) / "pyproject.toml").read_text())
        needed |= set(rendered["project"]["dependencies"])
        assert set(rendered["dependency-groups"]["dev"]) <= {*map(str, ours["dev"]), "pre-commit>=4.0"}
    assert sorted(ours["rendered"]) == sorted(needed)


def test_constraints_name_no_place() -> None:
    assert not re.search(r"://|--|@|/", (ROOT / "constraints.txt").read_text())


@variant
def test_dependencies_are_those_of_the_answers(name: str, renders: Renders) -> None:
    project = tomllib.loads((renders.shared(VARIANTS[name]) / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {re.split("[<>=]", one)[0] for one in project["project"]["dependencies"]}
    assert packages & {"wandb", "tensorboard"} == set(VARIANTS[name].get("trackers", ["wandb"]))
    framework = VARIANTS[name].get("framework", "lightning")
    packages = {"ignite" if package == "pytorch-ignite" else package for package in packages}
    assert packages & set(ENGINES) == {framework}, "only its own framework"
    assert packages & {"accelerate", "six", "setuptools"} == (
        {"accelerate", "six", "setuptools"} if framework == "catalyst" else set()
    )
    tasks = {VARIANTS[name].get("task", "classification"), *VARIANTS[name].get("extra_tasks", [])}
    assert ("cleanlab" in packages) == bool(tasks & {"classification", "multilabel", "multitask"})
    assert project["tool"]["uv"]["package"] is False


@variant
def test_ruff(name: str, renders: Renders) -> None:
    project = renders.shared(VARIANTS[name])
    check(project, script("ruff"), "check", "--no-cache", "--output-format=concise")
    check(project, script("ruff"), "format", "--no-cache", "--check")


@variant
def test_arrows_run_one_way(name: str, renders: Renders) -> None:
    check(renders.shared(VARIANTS[name]), script("lint-imports"), "--no-logo", "--no-cache")


def test_only_the_trackers_imports_tensorboard(renders: Renders) -> None:
    """import-linter sees torch only, not which part of it is imported."""
    source = renders.shared(VARIANTS["both-trackers"]) / "src"
    importers = [path for path in source.rglob("*.py") if "torch.utils.tensorboard" in path.read_text()]
    assert importers
    assert all(path.is_relative_to(source / "pipeline" / "trackers") for path in importers)


@pytest.mark.slow
@pytest.mark.parametrize("name", CODE_VARIANTS)
def test_mypy(name: str, renders: Renders) -> None:
    cache = ROOT / "build" / "mypy_cache"  # kept: a cold run takes a minute and a half
    check(renders.shared(VARIANTS[name]), sys.executable, "-m", "mypy", "--cache-dir", str(cache))


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=[pytest.mark.full] * (task in ("multilabel", "multitask"))) for task in TASK_DEFAULTS],
)
def test_own_tests_of_a_render(task: str, renders: Renders, tmp_path: Path) -> None:
    project = renders.copy(tmp_path / "project", {"task": task})
    check(project, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_a_reader_finishes_in_an_evening(renders: Renders) -> None:
    """Long files and functions are where a house stops being readable."""
    projects = [renders.shared({**VARIANTS["both-trackers"], "task": task}) for task in TASK_DEFAULTS]
    engines = [renders.shared({"framework": engine}) / "src/pipeline/engine/__init__.py" for engine in ENGINES]
    ours = [
        path
        for project in projects
        for ring in ("pipeline", "toolkit")
        for path in project.rglob(f"src/{ring}/**/*.py")
    ]
    for path in [*ours, *engines]:
        lines = path.read_text().splitlines()
        most = 340 if path.name == "trainer.py" else 260  # the spine of a training stands in one file
        assert len(lines) <= most, f"{path} has {len(lines)} lines"
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 70, f"{path}: {node.name} has {length} lines"


def test_every_command_in_the_handbook_exists(renders: Renders) -> None:
    project = renders.shared()
    makefile = (project / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    for path, text in texts(project).items():
        for found in set(re.findall(r"\bscripts/(\w+\.py)\b", text)):
            assert (project / "scripts" / found).is_file(), f"{path} names scripts/{found}"
        if path.endswith((".md", ".yml")):
            for found in set(re.findall(r"^\W*make (\w+)", text, re.MULTILINE)):
                assert found in targets, f"{path} names make {found}"
    assert {"setup", "demo", "test", "update", "help"} <= targets


@pytest.mark.parametrize("task", TASK_DEFAULTS)
def test_the_handbook_s_other_answer_is_one(task: str, renders: Renders) -> None:
    handbook = (renders.shared({"task": task}) / "README.md").read_text()
    (metric,) = re.findall(r"-d metric=(\w+)", handbook)
    changed = renders.shared({"task": task, "metric": metric}) / "competition.yaml"
    assert f"\nmetric: {metric}\n" in changed.read_text()


def test_make_says_what_is_missing(project: Path) -> None:
    done = subprocess.run(["make", "demo"], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "there is no .venv/bin/python yet; run: make setup" in done.stderr
    done = subprocess.run(["make", "update"], cwd=project, capture_output=True, text=True, check=False)
    assert "there is no .venv/bin/uvx yet; run: make setup" in done.stderr
    uvx = project / ".venv/bin/uvx"
    uvx.parent.mkdir(parents=True)
    uvx.write_text("#!/bin/sh\necho it runs $@\n")
    uvx.chmod(0o755)
    done = subprocess.run(["make", "update"], cwd=project, capture_output=True, text=True, check=False)
    assert "copied from a folder without git" in done.stderr and "it runs" not in done.stdout
    answers = project / ".copier-answers.yml"
    answers.write_text("_commit: v1.0.0\n" + answers.read_text())
    done = subprocess.run(["make", "update"], cwd=project, capture_output=True, text=True, check=False)
    assert "it runs copier update" in done.stdout
    help_text = subprocess.run(["make"], cwd=project, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in help_text for target in ("setup", "demo", "test", "update"))


EXAMPLES = {  # of a head: kind, what the network says and the truth, for 5 samples
    "classification": ("multiclass", (5, 3), torch.tensor([0, 2, 1, 1, 0])),
    "multitask": ("multiclass", (5, 3), torch.tensor([0, 2, 1, 1, 0])),
    "multilabel": ("multilabel", (5, 3), torch.eye(3)[[0, 2, 1, 1, 0]]),
    "regression": ("regression", (5, 1), torch.arange(5.0)[:, None]),
    "metric_learning": ("embedding", (5, 3), torch.tensor([0, 2, 1, 1, 0])),
    "segmentation": (
        "mask",
        (5, 3, 4, 4),
        torch.eye(3, dtype=torch.uint8)[[0, 2, 1, 1, 0]].view(5, 3, 1, 1).repeat(1, 1, 4, 4),
    ),
}


@pytest.mark.parametrize("task", TASK_DEFAULTS)
def test_the_loss_in_the_handbook_is_one(task: str, renders: Renders) -> None:
    """One value per sample, with gradients; the smaller the nearer the truth."""
    project = renders.shared({**VARIANTS["no-tracker"], "task": task})
    readme = (project / "README.md").read_text()
    [code] = re.findall(r"```python\n# src/competition/losses\.py\n(.*?)```", readme, flags=re.DOTALL)
    kind, shape, target = EXAMPLES[task]
    with imported(project):
        from pipeline.competition import Head

        namespace: dict[str, Any] = {}
        exec(code, namespace)
        loss = namespace["MyLoss"](Head("any", kind, ("a", "b", "c")), gamma=1.5)
    said = torch.zeros(shape, requires_grad=True)
    loss(said, target).sum().backward()
    assert loss(said, target).shape == (5,) and said.grad is not None and said.grad.abs().sum() > 0
    nearer = said - 0.1 * said.grad
    assert loss(nearer, target).sum() < loss(said, target).sum()
