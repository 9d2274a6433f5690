"""The typed experiment: every setting, its default, and what it may be."""

from collections.abc import Iterator, Mapping
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
from pipeline.registry import Registry, Spec, validated
from toolkit.errors import UserError


class Experiment(Strict):
    """One experiment, as `experiments/NAME.yaml` describes it. The file holds only what differs from here."""

    description: str = setting("", "what is tried, in your words")
    seed: int = setting(0, "the same seed gives the same numbers", ge=0)
    seeds: int = setting(1, "models a fold trains, from this seed on; they predict together", ge=1)
    folds: str = setting("folds", "the fold file: folds/NAME.csv")
    stage: str = setting("", "the stage of the competition that it trains; empty: the last one")
    inputs: dict[str, str] = setting({}, "earlier stage -> experiment whose predictions become columns STAGE:COLUMN")
    pseudo: tuple[str, ...] = setting((), "pseudo labels that train as well: names that scripts/pseudo.py gave")
    task: Spec = named("task", "default", "settings that only this kind of task has")
    image: Image = Image()
    dataset: Spec = named("dataset", "default", "how a row becomes a sample")
    augmentations: Spec = named("augmentations", "default", "what happens to images of each stage, on the CPU")
    model: Model = Model()
    losses: tuple[LossRow, ...] = setting((), "what trains; none: the usual loss of each head")
    step: Spec = named("step", "default", "how a batch becomes losses")
    training: Training = Training()
    tta: tuple[Spec, ...] = setting(
        (), "views whose predictions join those of the image itself: hflip, rot90, scale:0.8, crop:0.9, ...", "view"
    )
    aggregate: Spec = named("aggregate", "mean", "how predictions of several images become one (prediction_column)")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    averaging: Averaging = Averaging()
    interventions: tuple[Intervention, ...] = setting((), "settings that are others in some epochs")
    checkpoints: Checkpoints = Checkpoints()
    callbacks: tuple[Spec, ...] = setting((), "what else watches or intervenes", "callback")
    engine_callbacks: tuple[Spec, ...] = setting((), "those of the training framework itself", "engine_callback")
    tracking: Tracking = Tracking()
    watch: Watch = Watch()
    machine: Machine = Machine()


Group = TypeVar("Group", bound=Strict)


def parse_experiment(values: dict[str, Any], where: str) -> Experiment:
    """Check the settings of one experiment; a `UserError` for an unknown key, a wrong type or a value out of range."""
    return validated(Experiment, merge(default_names(), values), where)  # params alone are those of the default name


def default_names(group: type[Strict] = Experiment) -> dict[str, Any]:
    """The name that each by-name entry has where an experiment gives none, nested as the settings are."""
    found: dict[str, Any] = {}
    for name, field in group.model_fields.items():
        if isinstance(field.default, Spec):
            found[name] = {"name": field.default.name}
        elif isinstance(field.default, Strict):
            found[name] = default_names(type(field.default))
        elif name == "name" and "params" in group.model_fields:
            found[name] = field.default
    return found


def resolve_names(group: Group, names: Registry) -> Group:
    """Check every by-name entry against its callable and write all its parameters out, defaults included: those that
    change later do not change a run, which saves them."""
    changed: dict[str, Any] = {}
    for name, info in type(group).model_fields.items():
        value = getattr(group, name)
        items = value if isinstance(value, tuple) else (value,)
        extra = info.json_schema_extra
        if isinstance(extra, dict) and "kind" in extra:
            kind = str(extra["kind"])
            if name == "name":  # the group itself is the entry: `name` and `params` beside settings
                entry = Spec(name=value, params=dict(group)["params"])
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


def merge(base: Any, changes: Any, defaults: Mapping[str, Any] | None = None) -> Any:
    """`changes` over `base`, mapping by mapping; `defaults` is what `default_names` gives for `base`.

    Where a by-name entry gets another name, its old params go, because params of one callable mean nothing to another.
    A mapping of whole numbers changes single rows of a list (`losses.0.weight=2`).
    """
    defaults = defaults or {}
    if isinstance(base, str) and isinstance(changes, dict) and "name" not in changes and "params" in changes:
        base = {"name": base}  # `augmentations: default` and then `augmentations.params.strength=2`
    if isinstance(base, list) and isinstance(changes, dict) and all(str(key).isdigit() for key in changes):
        rows = list(base)
        for key, value in changes.items():
            if int(key) >= len(rows):
                raise UserError(f"there is no row {key}: the list has {len(rows)}, counted from 0")
            rows[int(key)] = merge(rows[int(key)], value)
        return rows
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    name = base.get("name", defaults.get("name"))
    old = {key: value for key, value in base.items() if key != "params" or changes.get("name", name) == name}
    return {**old, **{key: merge(old.get(key), value, defaults.get(key)) for key, value in changes.items()}}


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """`optimizer.lr: 0.001 -> 0.0003` for every setting both know; a setting the old run never had is no difference."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **(new if path.endswith("params") else {})}:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path}: {old!r} -> {new!r}"


def json_schema() -> dict[str, Any]:
    """The JSON schema of an experiment's file, for completion in an editor; `experiment.schema.json` holds it."""
    schema = Experiment.model_json_schema()
    parent = {"type": "string", "description": "the experiment this one builds on: a file name without .yaml"}
    return {**schema, "properties": {"extends": parent, **schema["properties"]}}
