"""The groups of settings of an experiment, each with its default and what it may be."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, field_validator, model_validator

from pipeline.registry import Named
from toolkit.errors import nearest


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


Pair = tuple[PositiveInt, PositiveInt]
Size = Annotated[
    Pair,
    BeforeValidator(
        lambda size: (size, size) if isinstance(size, int) else size, json_schema_input_type=PositiveInt | Pair
    ),
]


class Image(Strict):
    size: Size = Field(default=(224, 224), description="height and width the model sees; one number: square")
    reader: Named = named("reader", "image", "how a file becomes an array (H, W, C)")
    cache: bool = Field(
        default=False, description="decode and resize each image once, into a memory map below data/cache"
    )
    cache_size: Size | None = Field(
        default=None, description="height and width in the cache; none: size. More leaves room for random crops"
    )
    prepare: Named = named("prepare", "normalize", "what happens to a batch of images on the device, before the model")


class Model(Strict):
    name: str = Field(
        default="default",
        description="the usual one of the kind of task, another by its name, or a model of your own",
        json_schema_extra={"kind": "model"},
    )
    encoder: str = Field(default="resnet34", description="any timm model name, or an encoder of your own")
    pretrained: bool = Field(default=True, description="start from the hub's weights; false: from scratch")
    weights: str | None = Field(
        default=None, description="start from these instead: a file, or run:NAME (the same fold of another run)"
    )
    in_chans: int = Field(default=3, ge=1, description="channels of the image")
    image_size: tuple[int, int] | None = Field(
        default=None, description="height and width an encoder of a fixed size is built for; none: image.size"
    )
    pooling: Named = named("pooling", "encoder", "how the feature map becomes one vector; encoder: as it was trained")
    drop_rate: float = Field(default=0.0, ge=0, lt=1, description="dropout before the heads")
    multi_sample_dropout: int = Field(default=1, ge=1, description="dropout masks whose losses are averaged")
    side_columns: tuple[str, ...] | None = Field(
        default=None, description="side columns of competition.yaml that it sees beside the image; none: all of them"
    )
    side_width: int = Field(default=32, ge=1, description="features made of the side columns")
    side_drop_rate: float = Field(default=0.1, ge=0, lt=1, description="dropout inside the layers for side columns")
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1, description="stochastic depth in the encoder")
    grad_checkpointing: bool = Field(default=False, description="recompute activations: less memory, more time")
    frozen: tuple[str, ...] = Field(
        default=(), description="parts that do not train: encoder, encoder.layer1, ... (* stands for any text)"
    )
    freeze_norm: bool = Field(default=False, description="batch norm keeps its statistics, weights and biases")
    params: dict[str, Any] = Field(default_factory=dict, description="settings of the model's own")


class LossRow(Strict):
    loss: Named = Field(description="a loss by name", json_schema_extra={"kind": "loss"})
    head: str | None = Field(default=None, description="the head it trains; none: it gets all outputs and the batch")
    output: str | None = Field(
        default=None, description="another output of the head, where the model returns some; none: its logits"
    )
    weight: float = Field(default=1.0, ge=0, description="its share in the sum")
    class_weights: Literal["balanced", "sqrt"] | dict[str, float] | None = Field(
        default=None, description="weights by class, of mean 1 over the rows: of 1 / count, of its root, or by name"
    )
    hardest: float = Field(
        default=1.0, gt=0, le=1, description="only this share of a batch trains: the samples with the largest loss"
    )
    name: str | None = Field(default=None, description="the term in logs; default: head and loss")

    @property
    def term(self) -> str:
        """The name of this term in losses and logs."""
        return self.name or "_".join(filter(None, (self.head, self.output, self.loss.name)))


class Training(Strict):
    epochs: int = Field(default=20, ge=1, description="passes over the training rows")
    batch_size: int = Field(default=32, ge=1, description="rows per step, of all devices together")
    accumulate: int = Field(default=1, ge=1, description="steps whose gradients are summed before the optimiser steps")
    sampler: Named = named("sampler", "shuffle", "which rows an epoch sees, and in which order")
    batch_transforms: tuple[Named, ...] = Field(
        default=(),
        description="what happens to a training batch on the device, after prepare: mixup, cutmix, ...",
        json_schema_extra={"kind": "batch_transform"},
    )
    max_rows: int | None = Field(
        default=None, ge=1, description="train on, and hold out, no more rows than this: for a first look only"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 where the device really has it, else fp16 on a GPU, else fp32"
    )
    clip_grad: float | None = Field(default=None, gt=0, description="largest gradient, as clip_mode measures it")
    clip_mode: Literal["norm", "value", "agc"] = Field(
        default="norm", description="norm of all, single values, or adaptive: norm by layer over that of its weights"
    )
    monitor: Literal["metric", "loss"] = Field(
        default="metric", description="what the best epoch is chosen by, on the held-out rows"
    )


class Optimizer(Strict):
    name: str = Field(default="adamw", description="any timm or torch optimiser by timm's name")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.01, ge=0, description="on weights; never on norms and biases")
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="each layer's rate over that of the layer above it; none: 1"
    )
    encoder_lr_factor: float = Field(default=1.0, gt=0, description="the encoder's rate over that of the heads")
    params: dict[str, Any] = Field(default_factory=dict, description="further arguments of the optimiser")
    parameter_groups: Named = named("parameter_groups", "default", "which parameters share settings")


class Schedule(Strict):
    name: str = Field(
        default="cosine", description="how the rate changes by step", json_schema_extra={"kind": "schedule"}
    )
    warmup_epochs: float = Field(default=1.0, ge=0, description="linear warm-up from zero")
    params: dict[str, Any] = Field(default_factory=dict, description="settings of the schedule's own")


class Averaging(Strict):
    """Averages of weights. Those of the last two kinds are kept if they are better on the held-out rows."""

    ema_decay: float | None = Field(
        default=None, ge=0, lt=1, description="moving average of the weights after each step, 0.999 or so; none: off"
    )
    ema_warmup: bool = Field(default=True, description="the decay grows with the steps, as short trainings need it")
    swa_start: int | None = Field(
        default=None, description="mean of all epochs from this one on, from 1, or -5: the last five; none: off"
    )
    best_epochs: int = Field(default=1, ge=1, description="mean of so many of the best epochs; 1: off")


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
    devices: int = Field(default=1, ge=1, description="so many GPUs share each batch, with a process for each")
    workers: int | None = Field(default=None, ge=0, description="loader processes; none: by the number of cores")
    compile: bool = Field(default=False, description="torch.compile for the network: slow to start, faster steps")
    valid_batch_size: int | None = Field(default=None, ge=1, description="rows per batch without gradients")


class Watch(Strict):
    """What looks at the training. These settings never count as a change of the experiment."""

    non_finite: Literal["stop", "skip"] = Field(
        default="stop", description="after a loss or gradient that is not finite: stop, or leave the step out and go on"
    )
    max_skips: int = Field(default=10, ge=1, description="so many steps of a fold are left out before it stops")
    gradient_steps: int | None = Field(
        default=None,
        ge=1,
        description="gradients of each block are looked at every so many steps; none: every 50, and in a run of less "
        "than 500 ten times",
    )
    figure_epochs: int = Field(
        default=10, ge=0, description="pictures of every so-many-th epoch, and of the last; 0: of none"
    )
    extremes_by: str | None = Field(
        default=None,
        description="what best and worst batches and samples are ranked by: loss, a term of it, or a metric; none: "
        "what the task says, or the loss",
    )
    explain: str | None = Field(
        default=None, description="what Grad-CAM explains: HEAD or HEAD:CLASS; none: what the first head says"
    )
    anomaly: bool = Field(default=False, description="torch's anomaly detection throughout: slow, for debugging")

    def draws(self, epoch: int, epochs: int) -> bool:
        """Whether pictures are drawn at the end of an epoch, counted from 0 of `epochs`."""
        every = self.figure_epochs
        return every > 0 and (epoch == epochs - 1 or (epoch + 1) % every == 0)


INTERVENTIONS = (
    "augmentations",
    "image.size",
    "losses",
    "model.freeze_norm",
    "model.frozen",
    "step",
    "training.batch_transforms",
)


class Intervention(Strict):
    """Settings that are others in some epochs of training. Held-out rows are always scored by the experiment's own."""

    epochs: tuple[int, int] = Field(
        description="first and last epoch, both included: counted from 1, or from the end (-1 is the last)"
    )
    set: dict[str, Any] = Field(description="setting -> value, for example {image.size: 160}", min_length=1)

    @field_validator("epochs")
    @classmethod
    def _counted(cls, epochs: tuple[int, int]) -> tuple[int, int]:
        if 0 in epochs or (epochs[0] > epochs[1] and epochs[0] * epochs[1] > 0):
            raise ValueError("first and last epoch are expected, counted from 1 or from -1 at the end")
        return epochs

    @field_validator("set")
    @classmethod
    def _possible(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for key in settings:
            if not any(key == known or key.startswith(f"{known}.") for known in INTERVENTIONS):
                raise ValueError(f"'{key}' cannot change while training; {nearest(key, INTERVENTIONS)}")
        return settings

    def covers(self, epoch: int, epochs: int) -> bool:
        """Whether the epoch, counted from 0 of `epochs`, is one of these."""
        first, last = (number - 1 if number > 0 else epochs + number for number in self.epochs)
        return first <= epoch <= last
