"""The typed experiment: every setting, its default, and what it may be."""

from collections.abc import Iterator
from typing import Any, TypeVar

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
    Watch,
    named,
    setting,
)
from pipeline.registry import Named, Names, validated


class Experiment(Strict):
    """One experiment, as `experiments/NAME.yaml` describes it. The file holds only what differs from here."""

    description: str = setting("", "what is tried, in your words")
    seed: int = setting(0, "the same seed gives the same numbers", ge=0)
    seeds: int = setting(1, "models a fold trains, from this seed on; they predict together", ge=1)
    folds: str = setting("folds", "the fold file: folds/NAME.csv")
    stage: str = setting("", "the stage of the competition that it trains; empty: the last one")
    inputs: dict[str, str] = setting({}, "earlier stage -> experiment whose predictions become columns STAGE:COLUMN")
    task: Named = named("task", "default", "settings that only this kind of task has")
    image: Image = Image()
    dataset: Named = named("dataset", "default", "how a row becomes a sample")
    augmentations: Named = named("augmentations", "default", "what happens to images of each stage, on the CPU")
    model: Model = Model()
    losses: tuple[LossRow, ...] = setting((), "what trains; none: the usual loss of each head")
    step: Named = named("step", "default", "how a batch becomes losses")
    training: Training = Training()
    aggregate: Named = named("aggregate", "mean", "how predictions of several images become one (prediction_column)")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    averaging: Averaging = Averaging()
    interventions: tuple[Intervention, ...] = setting((), "settings that are others in some epochs")
    checkpoints: Checkpoints = Checkpoints()
    callbacks: tuple[Named, ...] = setting((), "what else watches or intervenes", "callback")
    engine_callbacks: tuple[Named, ...] = setting((), "those of the training framework itself", "engine_callback")
    tracking: Tracking = Tracking()
    watch: Watch = Watch()
    machine: Machine = Machine()


Group = TypeVar("Group", bound=Strict)


def parse_experiment(values: dict[str, Any], where: str) -> Experiment:
    """Check the settings of one experiment.

    Raises:
        UserError: unknown key (with the nearest valid one), wrong type, or value out of range.
    """
    return validated(Experiment, values, where)


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
        items = value if isinstance(value, tuple) else (value,)
        extra = info.json_schema_extra
        if isinstance(extra, dict) and "kind" in extra:
            kind = str(extra["kind"])
            if name == "name":  # the group itself is the entry: `name` and `params` beside settings
                entry = Named(name=value, params=dict(group)["params"])
                changed["params"] = names.resolve(kind, entry).params
                continue
            # a default stays as it is where the kind of task has nothing of this kind
            items = tuple(
                entry if entry == info.default and not names.knows(kind) else names.resolve(kind, entry)
                for entry in items
            )
        else:
            items = tuple(resolve_names(item, names) if isinstance(item, Strict) else item for item in items)
        changed[name] = items if isinstance(value, tuple) else items[0]
    return group.model_copy(update=changed)


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """`optimizer.lr: 0.001 -> 0.0003` for every setting both know; a setting the old run never had is no difference."""
    if isinstance(old, dict) and isinstance(new, dict) and path.rpartition(".")[2] != "params":
        for key in old:
            yield from differences(old[key], new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        texts = repr(old), repr(new)
        # Long values are shown from shortly before they differ.
        same = next((place for place, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), 0)
        start = max(0, same - 20) if max(map(len, texts)) > 60 else 0
        before, now = (
            "..." * (start > 0) + text[start : start + 55] + "..." * (len(text) > start + 55) for text in texts
        )
        yield f"{path}: {before} -> {now}"


def json_schema() -> dict[str, Any]:
    """The JSON schema of an experiment's file, for completion in an editor; `experiment.schema.json` holds it."""
    schema = Experiment.model_json_schema()
    parent = {"type": "string", "description": "the experiment this one builds on: a file name without .yaml"}
    schema["properties"] = {"extends": parent, **schema["properties"]}
    return schema
