"""Experiments by file name: `extends`, `key=value` overrides, and `--as NAME` that writes a variation down."""

import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

from pipeline.config import Experiment, default_names, merge, parse_experiment
from pipeline.project import Project
from pipeline.registry import Spec
from toolkit.errors import LAUNCHED, UserError, nearest
from toolkit.files import dump_yaml, parse_yaml_value, read_yaml, write_text

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def load_experiment(project: Project, name: str, overrides: Sequence[str] = ()) -> Experiment:
    """Read `experiments/<name>.yaml` with what it extends, apply the overrides, and check the result.

    Raises:
        UserError: no such experiment (the nearest is named), a circle of `extends`, or a setting that is not valid.
    """
    before, changes = _read(project, name, ()), parse_overrides(overrides)
    where = f"experiments/{name}.yaml" + (" with its overrides" if overrides else "")
    config = parse_experiment(merge(before, changes, default_names()), where)
    old, new = merge(default_names(), before)["optimizer"]["name"], config.optimizer
    if new.name != old and "lr" not in changes.get("optimizer", {}) and LAUNCHED not in os.environ:
        remedy = f"scripts/find_lr.py looks for one for {new.name}"
        print(f"note: optimizer.lr stays {new.lr:g}, which was chosen for {old}; {remedy}", file=sys.stderr)
    return config


def write_variation(project: Project, parent: str, name: str, overrides: Sequence[str]) -> bool:
    """Write `experiments/<name>.yaml`: `extends: <parent>` and what the overrides change. Says whether it is new.

    Raises:
        UserError: the name cannot be a file and folder name, or another experiment has it already.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot name an experiment; use letters, digits, '-' and '_'")
    load_experiment(project, parent, overrides)  # refuse what is not valid before anything is written
    values: dict[str, Any] = {"extends": parent, **parse_overrides(overrides)}
    path = project.experiments / f"{name}.yaml"
    if not path.is_file():
        write_text(path, dump_yaml(values))
        return True
    if read_yaml(path) != values:
        unused = "" if project.run(name).exists() else ", or delete this file: there is no run of it"
        raise UserError(f"{project.shown(path)} is there already and differs; choose another name after --as{unused}")
    return False


@contextmanager
def removed_without_a_run(project: Project, name: str) -> Iterator[None]:
    """Remove the new `experiments/<name>.yaml` where the command fails before there is a run: a setting was wrong, and
    the name must be free for the mended one."""
    try:
        yield
    except (UserError, SystemExit):  # the latter: processes that were started have said what is wrong
        if not project.run(name).exists():
            (project.experiments / f"{name}.yaml").unlink(missing_ok=True)
        raise


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """What `key=value` overrides change together, read as in a YAML file: `optimizer.lr=3e-4` as a nested mapping. A
    later one wins; a name and its params may come in either order."""
    changes = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"'{text}' is not an override; write key=value, for example optimizer.lr=3e-4")
        changes.append(nested(key, parse_yaml_value(value, key)))
    return together(changes)


def nested(key: str, value: Any) -> dict[str, Any]:
    """`optimizer.lr` and a value as a nested mapping."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def together(changes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Changes that are made at once, as one: none of them drops what another one sets beside it."""
    return functools.reduce(_both, changes, {})


def _both(first: Any, later: Any) -> Any:
    if isinstance(first, dict) and isinstance(later, str) and "params" in first:
        later = {"name": later}
    if isinstance(first, dict) and isinstance(later, dict):
        return {**first, **{key: _both(first.get(key), value) for key, value in later.items()}}
    return merge(first, later)


def describe(group: BaseModel, indent: str = "") -> Iterator[str]:
    """Every setting as a line of YAML, with what it means behind it."""
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        if isinstance(value, BaseModel) and not isinstance(value, Spec):
            yield f"{indent}{name}:"
            yield from describe(value, indent + "  ")
        else:
            plain = group.model_dump(mode="json", include={name})[name]
            yield f"{f'{indent}{name}: {json.dumps(plain, ensure_ascii=False)}':<56} # {field.description or name}"


def _read(project: Project, name: str, children: tuple[str, ...]) -> dict[str, Any]:
    if name in children:
        raise UserError(f"experiments extend each other in a circle: {' -> '.join([*children, name])}")
    path = project.experiments / f"{name}.yaml"
    if not NAME.fullmatch(name) or not path.is_file():
        known = [file.stem for file in project.experiments.glob("*.yaml")]
        extended = f" (extended by '{children[-1]}')" if children else ""
        raise UserError(f"there is no experiment '{name}'{extended}; {nearest(name, known)}")
    values = read_yaml(path)
    parent = values.pop("extends", None)
    return values if parent is None else merge(_read(project, str(parent), (*children, name)), values, default_names())
