"""The typed experiment: every setting, its default, and what it may be."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.names import Named, Names, explain


class Strict(BaseModel):
    """A group of settings: an unknown key is an error, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _params_of_the_default(cls, values: Any) -> Any:
        """New params alone (`augmentations: {params: {...}}`) are those of the entry that is the default."""
        if not isinstance(values, dict):
            return values
        filled = {
            name: {"name": field.default.name, **values[name]}
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Named) and isinstance(values.get(name), dict)
        }
        return {**values, **filled}


def named(kind: str, default: str, description: str) -> Any:
    """A by-name setting: the kind says in which table of names it is looked up."""
    return Field(default=Named(name=default), description=description, json_schema_extra={"kind": kind})


SIZE_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
        ]
    }
)


class Image(Strict):
    size: Annotated[tuple[int, int], SIZE_SCHEMA] = Field(
        default=(224, 224), description="height and width the model sees; one number: square"
    )
    reader: Named = named("reader", "image", "how a file becomes an array (H, W, C)")
    prepare: Named = named("prepare", "normalize", "what happens to a batch of images on the device, before the model")

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, size: Any) -> Any:
        return (size, size) if isinstance(size, int) else size

    @field_validator("size")
    @classmethod
    def _positive(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < 1:
            raise ValueError("height and width must be at least 1")
        return size


class Model(Strict):
    name: str = Field(
        default="encoder_heads",
        description="a timm encoder with one linear layer per head, or a model of your own",
        json_schema_extra={"kind": "model"},
    )
    encoder: str = Field(default="resnet34", description="any timm model name, or an encoder of your own")
    pretrained: bool = Field(default=True, description="start from the hub's weights; false: from scratch")
    in_chans: int = Field(default=3, ge=1, description="channels of the image")
    drop_rate: float = Field(default=0.0, ge=0, lt=1, description="dropout before the heads")
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1, description="stochastic depth in the encoder")
    params: dict[str, Any] = Field(default_factory=dict, description="settings of the model's own")


class LossRow(Strict):
    loss: Named = Field(description="a loss by name", json_schema_extra={"kind": "loss"})
    head: str | None = Field(default=None, description="the head it trains; none: it gets all outputs and the batch")
    weight: float = Field(default=1.0, ge=0, description="its share in the sum")
    name: str | None = Field(default=None, description="the term in logs; default: head and loss")

    @property
    def term(self) -> str:
        """The name of this term in losses and logs."""
        return self.name or (f"{self.head}_{self.loss.name}" if self.head else self.loss.name)


class Training(Strict):
    epochs: int = Field(default=20, ge=1, description="passes over the training rows")
    batch_size: int = Field(default=32, ge=1, description="rows per step and device")
    accumulate: int = Field(default=1, ge=1, description="steps whose gradients are summed before the optimiser steps")
    sampler: Named = named("sampler", "shuffle", "which rows an epoch sees, and in which order")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 where the device really has it, else fp16 on a GPU, else fp32"
    )
    clip_norm: float | None = Field(default=None, gt=0, description="largest gradient norm")
    monitor: Literal["metric", "loss"] = Field(
        default="metric", description="what the best epoch is chosen by, on the held-out rows"
    )


class Optimizer(Strict):
    name: str = Field(default="adamw", description="any timm or torch optimiser by timm's name")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.01, ge=0, description="on weights; never on norms and biases")
    params: dict[str, Any] = Field(default_factory=dict, description="further arguments of the optimiser")
    parameter_groups: Named = named("parameter_groups", "default", "which parameters share settings")


class Schedule(Strict):
    name: str = Field(
        default="cosine", description="how the rate changes by step", json_schema_extra={"kind": "schedule"}
    )
    warmup_epochs: float = Field(default=1.0, ge=0, description="linear warm-up from zero")
    params: dict[str, Any] = Field(default_factory=dict, description="settings of the schedule's own")


class Checkpoints(Strict):
    keep: int = Field(default=1, ge=1, description="how many of the best epochs stay on disk")
    save_minutes: float = Field(default=10.0, gt=0, description="state for resume is saved this often inside an epoch")


class Tracking(Strict):
    every_steps: int = Field(default=10, ge=1, description="training losses are logged at this cadence")
    tags: tuple[str, ...] = Field(default=(), description="labels of the run in the trackers")
    log_checkpoint: bool = Field(default=False, description="upload the best weights as an artifact where that exists")


class Machine(Strict):
    """Settings that never count as a change of the experiment."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="where to compute")
    workers: int | None = Field(default=None, ge=0, description="loader processes; none: by the number of cores")
    valid_batch_size: int | None = Field(default=None, ge=1, description="rows per batch without gradients")


class Experiment(Strict):
    """One experiment, as `experiments/NAME.yaml` describes it. The file holds only what differs from here."""

    description: str = Field(default="", description="what is tried, in your words")
    seed: int = Field(default=0, ge=0, description="the same seed gives the same numbers")
    folds: str = Field(default="folds", description="the fold file: folds/NAME.csv")
    image: Image = Image()
    augmentations: Named = named("augmentations", "default", "what happens to images of each stage, on the CPU")
    model: Model = Model()
    losses: tuple[LossRow, ...] = Field(default=(), description="what trains; none: the usual loss of each head")
    step: Named = named("step", "default", "how a batch becomes losses")
    training: Training = Training()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    checkpoints: Checkpoints = Checkpoints()
    callbacks: tuple[Named, ...] = Field(
        default=(), description="what else watches or intervenes", json_schema_extra={"kind": "callback"}
    )
    tracking: Tracking = Tracking()
    machine: Machine = Machine()


def parse_experiment(values: dict[str, Any], where: str) -> Experiment:
    """Check the settings of one experiment.

    Raises:
        UserError: unknown key (with the nearest valid one), wrong type, or value out of range.
    """
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, Experiment)}") from error


def resolve_names(experiment: Experiment, names: Names) -> Experiment:
    """Check every by-name entry against its callable and write all its parameters out, defaults included.

    A run saves the result, so a default that changes later does not change the run.
    """
    return _resolve(experiment, names)


def _resolve(group: Any, names: Names) -> Any:
    changed: dict[str, Any] = {}
    for name, info in type(group).model_fields.items():
        value = getattr(group, name)
        kind = info.json_schema_extra.get("kind") if isinstance(info.json_schema_extra, dict) else None
        if kind is not None and name == "name":  # the group itself is the entry: `name` and `params` beside settings
            resolved = names.resolve(str(kind), Named(name=value, params=group.params))
            changed["params"] = resolved.params
        elif kind is not None:
            many = isinstance(value, tuple)
            entries = tuple(names.resolve(str(kind), entry) for entry in (value if many else (value,)))
            changed[name] = entries if many else entries[0]
        elif isinstance(value, Strict):
            changed[name] = _resolve(value, names)
        elif isinstance(value, tuple) and any(isinstance(item, Strict) for item in value):
            changed[name] = tuple(_resolve(item, names) for item in value)
    return group.model_copy(update=changed)


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """`optimizer.lr: 0.001 -> 0.0003` for every setting both know; a setting the old run never had is no difference."""
    if isinstance(old, dict) and isinstance(new, dict) and path.rpartition(".")[2] != "params":
        for key in old:
            yield from differences(old[key], new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def json_schema() -> dict[str, Any]:
    """The JSON schema of an experiment's file, for completion in an editor; `experiment.schema.json` holds it."""
    schema = Experiment.model_json_schema()
    parent = {"type": "string", "description": "the experiment this one builds on: a file name without .yaml"}
    schema["properties"] = {"extends": parent, **schema["properties"]}
    return schema
