"""Experiments: strict settings, variations, and params of one's own."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import pipeline
from pipeline.competition import Head, Metric
from pipeline.config import json_schema
from pipeline.experiments import load_experiment, write_variation
from pipeline.settings import read_settings
from small_project import SmallProject
from toolkit.errors import UserError


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("trainig.epochs=3", "unknown setting 'trainig'; did you mean 'training'"),
        ("optimizer.lrate=0.1", "unknown setting 'optimizer.lrate'; did you mean 'optimizer.lr'"),
        ("optimizer.lr=-1", "'optimizer.lr': input should be greater than 0"),
        ("training.epochs=many", "'training.epochs': input should be a valid integer"),
        ("epochs", "write key=value"),
    ],
)
def test_a_wrong_setting_is_named(project: SmallProject, override: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        load_experiment(project.project, "small", [override])


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("losses=[{head: shape, loss: focl}]", "unknown loss 'focl'; did you mean 'focal'"),
        ("losses=[{head: shape, loss: {name: focal, params: {gama: 1}}}]", "did you mean 'gamma'"),
        ("losses=[{head: shape, loss: {name: focal, params: {gamma: high}}}]", "gamma.*valid number"),
        ("callbacks=[power_cut]", "'at' is missing"),
        ("augmentations.params.brightnes=0.3", "did you mean 'brightness'"),
    ],
)
def test_params_of_ones_own_are_as_strict(project: SmallProject, override: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        project.prepare("small", override)


def test_an_unknown_experiment_names_the_nearest(project: SmallProject) -> None:
    with pytest.raises(UserError, match="there is no experiment 'smal'; did you mean 'small'"):
        load_experiment(project.project, "smal")


def test_a_metric_is_asked_before_anything_is_trained(project: SmallProject, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(heads: Sequence[Head]) -> None:
        raise UserError(f"it cannot score '{heads[0].name}'")

    asked = Metric("mine", lambda truth, predictions, heads: 0.0, check_heads=refuse)
    monkeypatch.setattr("competition.metric.metrics", lambda settings: (asked,))
    with pytest.raises(UserError, match="it cannot score 'shape'"):
        project.prepare("small")


def test_a_variation_is_written_down(project: SmallProject) -> None:
    write_variation(project.project, "small", "exp001", ["optimizer.lr=3e-4", "augmentations.params.brightness=0.3"])
    text = (project.root / "experiments" / "exp001.yaml").read_text()
    assert text.startswith("extends: small\n")
    varied, parent = (project.prepare(name).config for name in ("exp001", "small"))
    assert (varied.optimizer.lr, varied.augmentations.params) == (3e-4, {"brightness": 0.3})
    assert varied.training == parent.training


def test_a_variation_never_replaces_another(project: SmallProject) -> None:
    write_variation(project.project, "small", "exp001", ["optimizer.lr=3e-4"])
    write_variation(project.project, "small", "exp001", ["optimizer.lr=3e-4"])
    with pytest.raises(UserError, match=r"is there already and differs.*delete this file: there is no run"):
        write_variation(project.project, "small", "exp001", ["optimizer.lr=1e-4"])
    (project.root / "runs" / "exp001").mkdir(parents=True)
    with pytest.raises(UserError, match=r"choose another name after --as$"):
        write_variation(project.project, "small", "exp001", ["optimizer.lr=1e-4"])


def test_defaults_of_ones_own_are_written_out(project: SmallProject) -> None:
    """So a default that changes in the code later is seen as a change of the run."""
    assert project.prepare("small").config.augmentations.params == {"brightness": 0.1}


def test_an_unknown_answer_names_the_nearest(project: SmallProject) -> None:
    path = project.root / "competition.yaml"
    path.write_text(path.read_text().replace("group_column", "group_colum"))
    with pytest.raises(UserError, match="unknown setting 'group_colum'; did you mean 'group_column'"):
        read_settings(project.root / "src" / "competition" / "__init__.py")


def test_the_schema_is_up_to_date() -> None:
    """An editor completes experiments by it."""
    path = Path(pipeline.__file__).with_name("experiment.schema.json")
    assert json.loads(path.read_text(encoding="utf-8")) == json_schema(), "write pipeline.config.json_schema() into it"
