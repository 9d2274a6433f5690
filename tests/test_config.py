"""The typed experiment: what is refused, what extends what, and what a by-name entry may hold."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from pipeline.config import default_names, differences, json_schema, parse_experiment
from pipeline.experiments import load_experiment, merge, parse_overrides
from pipeline.project import Project
from pipeline.registry import Registry, check_params, modules_of
from pipeline.trackers.local import LocalTracker
from projects import imported, run_script
from toolkit.errors import UserError
from toolkit.files import parse_yaml_value, read_yaml
from training import expect

BAD_SETTINGS = {
    "unknown key": (["optimizer.lrr=3"], "optimizer.lr"),
    "unknown group": (["optimiser.lr=3"], "optimizer"),
    "out of range": (["training.epochs=0"], "training.epochs"),
    "negative rate": (["optimizer.lr=-1"], "optimizer.lr"),
    "wrong type": (["seed=abc"], "seed"),
    "a value for a group": (["training=3"], "training"),
    "a choice that is none": (["training.precision=fp8"], "fp16"),
    "no value": (["seed"], "key=value"),
    "an empty key": (["optimizer..lr=1"], "key=value"),
    "size of three": (["image.size=[1,2,3]"], "image.size"),
    "size of zero": (["image.size=0"], "greater than 0"),
    "unknown param": (["augmentations.params.flipp=true"], "flip"),
    "param of the wrong type": (["augmentations.params.strength=much"], "strength"),
    "unknown by-name entry": (["training.sampler=shuffel"], "shuffle"),
    "unknown schedule": (["schedule.name=cosin"], "cosine"),
    "row of a list that is not there": (["losses.0.weight=2"], "losses"),
    "loss row without a loss": (["losses=[{head: label}]"], "loss"),
    "not yaml": (["seed={"], "seed"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings_are_refused_in_one_line(project: Path, case: str) -> None:
    overrides, hint = BAD_SETTINGS[case]
    result = run_script(project, "train.py", "demo", *overrides, "--print-config")
    assert result.status == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert hint in result.stderr


def test_numbers_are_read_as_yaml_1_2() -> None:
    assert parse_yaml_value("3e-4") == 3e-4
    assert parse_yaml_value("no") == "no"
    assert parse_yaml_value("0012") in (12, "0012")


def test_extends_merges_mapping_by_mapping(project: Path) -> None:
    experiments = project / "experiments"
    (experiments / "parent.yaml").write_text(
        "extends: demo\noptimizer: {lr: 0.1}\nschedule: {name: cosine, params: {final: 0.5}}\n"
        "callbacks: [{name: mine, params: {a: 1}}]\n"
    )
    (experiments / "child.yaml").write_text("extends: parent\nschedule: {name: constant}\ntraining: {epochs: 3}\n")
    child = load_experiment(Project.at(project), "child", ["seed=5"])
    assert (child.optimizer.lr, child.training.epochs, child.seed) == (0.1, 3, 5)
    assert child.training.batch_size == 32, "what the grandparent sets is kept"
    assert child.callbacks[0].params == {"a": 1}
    assert child.schedule.name == "constant"


PARENT = """extends: demo
optimizer: {lr: 0.1, weight_decay: 0.2, params: {betas: [0.8, 0.9]}}
schedule: {name: flat_cosine, warmup_epochs: 3, params: {flat: 0.5}}
augmentations: {params: {strength: 0.5}}
image: {reader: {params: {high: 9}}}
model: {name: mine, drop_rate: 0.4, params: {width: 8}}
losses: [{head: label, weight: 2, loss: {name: focal, params: {gamma: 1}}}]
callbacks: [{name: mine, params: {a: 1}}, other]
"""
ANOTHER_NAME = {  # overrides -> what the entry and what stands beside it are then
    "optimizer.name=sgd": {"optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.2, "params": {}}},
    "optimizer.name=adamw": {"optimizer": {"name": "adamw", "lr": 0.1, "params": {"betas": [0.8, 0.9]}}},
    "optimizer.lr=0.5 optimizer.name=sgd": {"optimizer": {"name": "sgd", "lr": 0.5, "weight_decay": 0.2, "params": {}}},
    "optimizer.name=sgd optimizer.params.x=1": {"optimizer": {"name": "sgd", "lr": 0.1, "params": {"x": 1}}},
    "optimizer.params.x=1 optimizer.name=sgd": {"optimizer": {"name": "sgd", "lr": 0.1, "params": {"x": 1}}},
    "schedule.name=cosine schedule.warmup_epochs=2": {"schedule": {"name": "cosine", "warmup_epochs": 2, "params": {}}},
    "schedule.name=cosine": {"schedule": {"name": "cosine", "warmup_epochs": 3, "params": {}}},
    "augmentations.name=default": {"augmentations": {"name": "default", "params": {"strength": 0.5}}},
    "augmentations.name=heavy": {"augmentations": {"name": "heavy", "params": {}}},
    "augmentations.params.x=1 augmentations=heavy": {"augmentations": {"name": "heavy", "params": {"x": 1}}},
    "augmentations=heavy augmentations.params.x=1": {"augmentations": {"name": "heavy", "params": {"x": 1}}},
    "image.reader.name=image": {"image": {"reader": {"name": "image", "params": {"high": 9}}}},
    "image.reader.name=tif": {"image": {"reader": {"name": "tif", "params": {}}}},
    "model.name=default": {"model": {"name": "default", "drop_rate": 0.4, "params": {}}},
    "losses.0.loss.name=bce": {"losses": [{"head": "label", "weight": 2, "loss": {"name": "bce", "params": {}}}]},
    "losses.0.name=term": {"losses": [{"name": "term", "loss": {"name": "focal", "params": {"gamma": 1}}}]},
    "losses.0.loss.params.x=1 losses.0.loss.name=bce": {"losses": [{"loss": {"name": "bce", "params": {"x": 1}}}]},
    "callbacks.0.name=new": {"callbacks": [{"name": "new", "params": {}}, {"name": "other", "params": {}}]},
}


@pytest.mark.parametrize("overrides", ANOTHER_NAME)
def test_another_name_drops_the_params_of_the_old_one_and_nothing_else(overrides: str) -> None:
    """On the command line, in a file that extends, and in the file that `--as` writes."""
    parent = YAML(typ="safe").load(PARENT)
    parent.pop("extends")
    found = parse_experiment(merge(parent, parse_overrides(overrides.split()), default_names()), "x")
    for group, expected in ANOTHER_NAME[overrides].items():
        _assert_holds(found.model_dump(mode="json")[group], expected)


def _assert_holds(found: Any, expected: Any) -> None:
    """`found` has all that is expected; `params` are exactly those."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            if key == "params":
                assert found[key] == value
            else:
                _assert_holds(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_holds(one, other)
    else:
        assert found == expected


def test_another_name_in_a_file_and_by_an_intervention(project: Path) -> None:
    (project / "experiments/parent.yaml").write_text(PARENT)
    (project / "experiments/child.yaml").write_text("extends: parent\noptimizer: {name: sgd}\nmodel: {name: default}\n")
    child = load_experiment(Project.at(project), "child")
    assert (child.optimizer.name, child.optimizer.lr, child.optimizer.params) == ("sgd", 0.1, {})
    assert (child.model.drop_rate, child.model.params) == (0.4, {})
    changes = {"augmentations.params.flip": True, "augmentations.name": "two"}
    package = project / "src/competition/__init__.py"
    names = 'names={\n        "augmentations": {"two": "competition.augmentations:augmentations"},'
    package.write_text(package.read_text().replace("names={", names))
    with imported(project):
        from competition import competition
        from pipeline.config import parse_experiment
        from pipeline.training.setup import all_names, by_epoch

        values = {"augmentations": {"params": {"strength": 0.5}}, "training": {"epochs": 1}}
        config = parse_experiment({**values, "interventions": [{"epochs": [1, 1], "set": changes}]}, "x")
        [epoch] = by_epoch(config, all_names(competition))
    assert epoch.augmentations.name == "two" and epoch.augmentations.params["flip"] is True
    assert epoch.augmentations.params["strength"] == 1.0, "that of the old name is gone"


def test_a_rate_of_another_optimiser_is_pointed_out_once(project: Path) -> None:
    command = ("train.py", "demo", "--print-config")
    said = expect(run_script(project, *command, "optimizer.name=sgd", "--as", "sgd")).stderr
    assert said.count("note: ") == 1 and "chosen for adamw" in said and "find_lr.py" in said
    assert not expect(run_script(project, *command, "optimizer.name=sgd", "optimizer.lr=0.1")).stderr
    assert not expect(run_script(project, *command, "optimizer.name=adamw")).stderr


def test_params_alone_are_those_of_the_default_entry(project: Path) -> None:
    out = expect(run_script(project, "train.py", "baseline", "augmentations.params.strength=0.5", "--print-config"))
    assert '"name": "default"' in out.stdout and '"strength": 0.5' in out.stdout


def test_circle_and_unknown_parent_are_refused(project: Path) -> None:
    experiments = project / "experiments"
    (experiments / "a.yaml").write_text("extends: b\n")
    (experiments / "b.yaml").write_text("extends: a\n")
    (experiments / "c.yaml").write_text("extends: demoo\n")
    assert "circle: a -> b -> a" in run_script(project, "train.py", "a").stderr
    assert "'demo'" in run_script(project, "train.py", "c").stderr
    assert "'demo'" in run_script(project, "train.py", "dem").stderr


def test_as_writes_the_variation_down(project: Path) -> None:
    overrides = ["optimizer.lr=3e-4", "augmentations.params.flip=true"]
    result = run_script(project, "train.py", "demo", *overrides, "--as", "exp012", "--print-config")
    assert result.status == 0, result.stderr
    text = (project / "experiments" / "exp012.yaml").read_text()
    assert text.startswith("extends: demo\n")
    assert "lr: 0.0003" in text and "flip: true" in text and "encoder" not in text
    assert "lr: 0.0003" in result.stdout
    again = run_script(project, "train.py", "demo", *overrides, "--as", "exp012", "--print-config")
    assert again.status == 0, "the same variation under the same name is no conflict"
    other = run_script(project, "train.py", "demo", "seed=1", "--as", "exp012")
    assert other.status == 2 and "another name" in other.stderr
    refused = run_script(project, "train.py", "demo", "sead=1", "--as", "exp013")
    assert refused.status == 2 and not (project / "experiments" / "exp013.yaml").exists()
    assert run_script(project, "train.py", "demo", "--as", "../x").status == 2


def test_a_wrong_name_leaves_no_variation_behind(project: Path) -> None:
    """What is only found wrong once names are looked up must not take the name of the mended experiment."""
    command = ("train.py", "demo", "--as", "exp014", "--print-config")
    wrong = expect(run_script(project, *command, "aggregate=maximum"), 2)
    assert "did you mean 'max'" in wrong.last_line and not (project / "experiments/exp014.yaml").exists()
    expect(run_script(project, *command, "aggregate=max"))
    kept = (project / "experiments/exp014.yaml").read_text()
    (project / "experiments/exp014.yaml").write_text(kept.replace("max", "maximum"))
    expect(run_script(project, "train.py", "demo", "--as", "exp014", "--print-config", "aggregate=maximum"), 2)
    assert (project / "experiments/exp014.yaml").is_file(), "a file that was there before stays"


def test_long_values_are_shown_where_they_differ() -> None:
    old = {"losses": [{"loss": {"name": "cross_entropy", "params": {"label_smoothing": 0.0}}, "head": "label"}]}
    new = {"losses": [{"loss": {"name": "cross_entropy", "params": {"label_smoothing": 0.0}}, "head": "lable"}]}
    assert list(differences({"lr": 0.1}, {"lr": 0.2})) == ["lr: 0.1 -> 0.2"]
    [line] = differences(old, new)
    before, _, now = line.partition(" -> ")
    assert "'label'" in before and "'lable'" in now and len(line) < 140


def test_print_config_shows_every_setting_with_its_default(project: Path) -> None:
    out = run_script(project, "train.py", "demo", "--print-config").stdout
    for setting in ("weight_decay: 0.02", "save_minutes: 10.0", '"strength": 1.0', '"flip": false', "device:"):
        assert setting in out
    assert all("#" in line or line.rstrip().endswith(":") for line in out.strip().splitlines())


def test_the_json_schema_is_up_to_date_and_accepts_the_experiments(project: Path) -> None:
    schema = json.loads((project / "src" / "pipeline" / "experiment.schema.json").read_text())
    assert schema == json_schema(), "run `make schema` in this repository"
    for path in (project / "experiments").glob("*.yaml"):
        jsonschema.validate(read_yaml(path), schema)
        assert path.read_text().startswith("# yaml-language-server: $schema=../src/pipeline/experiment.schema.json")
    for bad in ({"image": {"sise": 3}}, {"training": {"epochs": 0}}, {"optimizer": {"lr": "high"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_params_are_checked_against_the_signature() -> None:
    class Mine:
        def __init__(self, head: object, *, gamma: float = 2.0, names: tuple[str, ...] = (), rate: int) -> None: ...

    assert check_params(Mine, {"rate": 3, "names": ["a"]}, "x") == {"gamma": 2.0, "names": ("a",), "rate": 3}
    for params, hint in (
        ({}, "'rate' is missing"),
        ({"rate": 1, "gama": 2}, "did you mean 'gamma'"),
        ({"rate": "fast"}, "rate"),
        ({"rate": 1, "head": 2}, "head"),
    ):
        with pytest.raises(UserError, match=hint):
            check_params(Mine, params, "x")


def test_names_stand_in_tables_or_are_the_modules_of_a_package() -> None:
    own = {"tracker": {"mine": "nowhere:Mine", "other": "json:Other"}}
    names = Registry({"tracker": modules_of("pipeline.trackers", "TRACKER")}, own)
    assert names.find("tracker", "local") is LocalTracker
    for name, hint in (
        ("locale", "unknown tracker 'locale'; did you mean 'local'"),
        ("mine", "no module 'nowhere'"),
        ("other", "'json' has no 'Other'"),
    ):
        with pytest.raises(UserError, match=hint):
            names.find("tracker", name)
