"""The typed experiment: every setting, its default, and what it may be."""

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from pipeline.config.groups import (
    Averaging,
    Checkpoints,
    Image,
    Intervention,
    LossRow,
    Machine,
    Model,
    Optimizer,
    Schedule,
    Strict,
    Tracking,
    Training,
    named,
)
from pipeline.config.watch import Watch
from pipeline.registry import Named, Names, explain
from toolkit.errors import UserError

__all__ = [
    "Averaging",
    "Checkpoints",
    "Experiment",
    "Image",
    "Intervention",
    "LossRow",
    "Machine",
    "Model",
    "Optimizer",
    "Schedule",
    "Tracking",
    "Training",
    "Watch",
    "default_names",
    "differences",
    "json_schema",
    "parse_experiment",
    "resolve_names",
]


class Experiment(Strict):
    """One experiment, as `experiments/NAME.yaml` describes it. The file holds only what differs from here."""

    description: str = Field(default="", description="what is tried, in your words")
    seed: int = Field(default=0, ge=0, description="the same seed gives the same numbers")
    seeds: int = Field(default=1, ge=1, description="models a fold trains, from this seed on; they predict together")
    folds: str = Field(default="folds", description="the fold file: folds/NAME.csv")
    stage: str = Field(default="", description="the stage of the competition that it trains; empty: the last one")
    inputs: dict[str, str] = Field(
        default_factory=dict,
        description="earlier stage -> the experiment whose predictions become columns STAGE:COLUMN of the rows",
    )
    task: Named = named("task", "default", "settings that only this kind of task has")
    image: Image = Image()
    dataset: Named = named("dataset", "default", "how a row becomes a sample")
    augmentations: Named = named("augmentations", "default", "what happens to images of each stage, on the CPU")
    model: Model = Model()
    losses: tuple[LossRow, ...] = Field(default=(), description="what trains; none: the usual loss of each head")
    step: Named = named("step", "default", "how a batch becomes losses")
    training: Training = Training()
    aggregate: Named = named("aggregate", "mean", "how predictions of several images become one (prediction_column)")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    averaging: Averaging = Averaging()
    interventions: tuple[Intervention, ...] = Field(
        default=(), description="settings that are others in some epochs: unfreezing, image size, mixup off, ..."
    )
    checkpoints: Checkpoints = Checkpoints()
    callbacks: tuple[Named, ...] = Field(
        default=(), description="what else watches or intervenes", json_schema_extra={"kind": "callback"}
    )
    engine_callbacks: tuple[Named, ...] = Field(
        default=(),
        description="callbacks or handlers of the training framework itself",
        json_schema_extra={"kind": "engine_callback"},
    )
    tracking: Tracking = Tracking()
    watch: Watch = Watch()
    machine: Machine = Machine()


Group = TypeVar("Group", bound=Strict)


def parse_experiment(values: dict[str, Any], where: str) -> Experiment:
    """Check the settings of one experiment.

    Raises:
        UserError: unknown key (with the nearest valid one), wrong type, or value out of range.
    """
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, Experiment)}") from error


def default_names(group: type[Strict] = Experiment) -> dict[str, Any]:
    """The name that each by-name entry has where an experiment gives none, nested as the settings are."""
    found: dict[str, Any] = {}
    for name, field in group.model_fields.items():
        if isinstance(field.default, Named):
            found[name] = {"name": field.default.name}
        elif isinstance(field.default, Strict):
            found[name] = default_names(type(field.default))
        elif name == "name" and "params" in group.model_fields:
            found[name] = field.default
    return found


def resolve_names(group: Group, names: Names) -> Group:
    """Check every by-name entry against its callable and write all its parameters out, defaults included.

    A run saves the result, so a default that changes later does not change the run.
    """
    changed: dict[str, Any] = {}
    for name, info in type(group).model_fields.items():
        value = getattr(group, name)
        kind = info.json_schema_extra.get("kind") if isinstance(info.json_schema_extra, dict) else None
        if kind is not None and name == "name":  # the group itself is the entry: `name` and `params` beside settings
            entry = Named(name=value, params=dict(group)["params"])
            changed["params"] = names.resolve(str(kind), entry).params
        elif kind is not None:
            many = isinstance(value, tuple)
            entries = tuple(_resolved(names, str(kind), entry, info.default) for entry in (value if many else (value,)))
            changed[name] = entries if many else entries[0]
        elif isinstance(value, Strict):
            changed[name] = resolve_names(value, names)
        elif isinstance(value, tuple) and any(isinstance(item, Strict) for item in value):
            changed[name] = tuple(resolve_names(item, names) for item in value)
    return group.model_copy(update=changed)


def _resolved(names: Names, kind: str, entry: Named, default: Any) -> Named:
    """The entry with all its parameters; a default stays as it is where the kind of task has nothing of this kind."""
    return entry if entry == default and not names.knows(kind) else names.resolve(kind, entry)


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """`optimizer.lr: 0.001 -> 0.0003` for every setting both know; a setting the old run never had is no difference."""
    if isinstance(old, dict) and isinstance(new, dict) and path.rpartition(".")[2] != "params":
        for key in old:
            yield from differences(old[key], new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        before, now = repr(old), repr(new)
        # Long values are shown from shortly before they differ.
        same = next((place for place, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), 0)
        start = max(0, same - 20) if max(len(before), len(now)) > 60 else 0
        yield f"{path}: {_short(before, start)} -> {_short(now, start)}"


def _short(text: str, start: int) -> str:
    rest = text[start:] if start == 0 else "..." + text[start:]
    return rest if len(rest) <= 60 else rest[:57] + "..."


def json_schema() -> dict[str, Any]:
    """The JSON schema of an experiment's file, for completion in an editor; `experiment.schema.json` holds it."""
    schema = Experiment.model_json_schema()
    parent = {"type": "string", "description": "the experiment this one builds on: a file name without .yaml"}
    schema["properties"] = {"extends": parent, **schema["properties"]}
    return schema
