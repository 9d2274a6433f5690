"""The groups of settings of an experiment, each with its default and what it may be."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, field_validator

from pipeline.registry import Spec
from toolkit.errors import nearest


class Strict(BaseModel):
    """A group of settings: an unknown key is an error, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def setting(default: Any, description: str, kind: str = "", **limits: Any) -> Any:
    """A setting; the kind of one whose value is a name, or has one, says in which table of names it is looked up."""
    return Field(default, description=description, json_schema_extra={"kind": kind} if kind else None, **limits)


def named(kind: str, default: str, description: str) -> Any:
    """A by-name setting."""
    return setting(Spec(name=default), description, kind)


Pair = tuple[PositiveInt, PositiveInt]
Size = Annotated[
    Pair,
    BeforeValidator(
        lambda size: (size, size) if isinstance(size, int) else size, json_schema_input_type=PositiveInt | Pair
    ),
]


class Image(Strict):
    size: Size = setting((224, 224), "height and width the model sees; one number: square")
    reader: Spec = named("reader", "image", "how a file becomes an array (H, W, C)")
    cache: bool = setting(False, "decode and resize each image once, into a memory map below data/cache")
    cache_size: Size | None = setting(None, "height and width in the cache; none: size. More leaves room for crops")
    prepare: Spec = named("prepare", "normalize", "what happens to a batch of images on the device, before the model")


class Model(Strict):
    name: str = setting("default", "the usual one of the task, another by its name, or one of your own", "model")
    encoder: str = setting("resnet34", "any timm model name, or an encoder of your own")
    pretrained: bool = setting(True, "start from the hub's weights; false: from scratch")
    weights: str | None = setting(None, "start from these instead: a file, or run:NAME (the same fold of another run)")
    in_chans: int = setting(3, "channels of the image", ge=1)
    image_size: tuple[int, int] | None = setting(None, "what an encoder of a fixed size is built for; none: image.size")
    pooling: Spec = named("pooling", "encoder", "how the feature map becomes one vector; encoder: as it was trained")
    drop_rate: float = setting(0.0, "dropout before the heads", ge=0, lt=1)
    multi_sample_dropout: int = setting(1, "dropout masks whose losses are averaged", ge=1)
    side_columns: tuple[str, ...] | None = setting(None, "those of competition.yaml that it sees; none: all")
    side_width: int = setting(32, "features made of the side columns", ge=1)
    side_drop_rate: float = setting(0.1, "dropout inside the layers for side columns", ge=0, lt=1)
    drop_path_rate: float = setting(0.0, "stochastic depth in the encoder", ge=0, lt=1)
    grad_checkpointing: bool = setting(False, "recompute activations: less memory, more time")
    frozen: tuple[str, ...] = setting((), "parts that do not train: encoder, encoder.layer1, ... (*: any text)")
    freeze_norm: bool = setting(False, "batch norm keeps its statistics, weights and biases")
    params: dict[str, Any] = setting({}, "settings of the model's own")


class LossRow(Strict):
    loss: Spec = Field(description="a loss by name", json_schema_extra={"kind": "loss"})
    head: str | None = setting(None, "the head it trains; none: it gets all outputs and the batch")
    output: str | None = setting(None, "another output of the head, where the model returns some; none: its logits")
    weight: float = setting(1.0, "its share in the sum", ge=0)
    class_weights: Literal["balanced", "sqrt"] | dict[str, float] | None = setting(
        None, "of mean 1 over the rows: of 1 / count, of its root, or by name of the class"
    )
    hardest: float = setting(1.0, "only this share of a batch trains: the samples with the largest loss", gt=0, le=1)
    name: str | None = setting(None, "the term in logs; default: head and loss")

    @property
    def term(self) -> str:
        """The name of this term in losses and logs."""
        return self.name or "_".join(filter(None, (self.head, self.output, self.loss.name)))


class Training(Strict):
    epochs: int = setting(20, "passes over the training rows", ge=1)
    batch_size: int = setting(32, "rows per step, of all devices together", ge=1)
    accumulate: int = setting(1, "steps whose gradients are summed before the optimiser steps", ge=1)
    sampler: Spec = named("sampler", "shuffle", "which rows an epoch sees, and in which order")
    batch_transforms: tuple[Spec, ...] = setting(
        (), "what happens to a training batch on the device: mixup, ...", "batch_transform"
    )
    max_rows: int | None = setting(None, "train on, and hold out, no more rows than this: for a first look only", ge=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "auto: bf16 where the device has it, else fp16 on a GPU"
    )
    clip_grad: float | None = setting(None, "largest gradient, as clip_mode measures it", gt=0)
    clip_mode: Literal["norm", "value", "agc"] = setting("norm", "of all, of single values, or adaptive by layer")
    monitor: str | tuple[str, ...] = setting(
        "metric", "what chooses the best epoch: metric, loss, a metric by name; several: the next where one is equal"
    )


class Optimizer(Strict):
    name: str = setting("adamw", "any timm or torch optimiser by timm's name")
    lr: float = setting(1e-3, "peak learning rate", gt=0)
    weight_decay: float = setting(0.01, "on weights; never on norms and biases", ge=0)
    layer_decay: float | None = setting(None, "each layer's rate over that of the layer above it; none: 1", gt=0, le=1)
    encoder_lr_factor: float = setting(1.0, "the encoder's rate over that of the heads", gt=0)
    params: dict[str, Any] = setting({}, "further arguments of the optimiser")
    parameter_groups: Spec = named("parameter_groups", "default", "which parameters share settings")


class Schedule(Strict):
    name: str = setting("cosine", "how the rate changes by step", "schedule")
    warmup_epochs: float = setting(1.0, "linear warm-up from zero", ge=0)
    params: dict[str, Any] = setting({}, "settings of the schedule's own")


class Averaging(Strict):
    """Averages of weights. Those of the last two kinds are kept if they are better on the held-out rows."""

    ema_decay: float | None = setting(None, "moving average of the weights, 0.999 or so; none: off", ge=0, lt=1)
    ema_warmup: bool = setting(True, "the decay grows with the steps, as short trainings need it")
    swa_start: int | None = setting(None, "mean of all epochs from this one on, or -5: the last five; none: off")
    best_epochs: int = setting(1, "mean of so many of the best epochs; 1: off", ge=1)


class Checkpoints(Strict):
    keep: int = setting(1, "how many of the best epochs stay on disk", ge=1)
    save_minutes: float = setting(10.0, "state for resume is saved this often inside an epoch", gt=0)


class Tracking(Strict):
    every_steps: int = setting(10, "training losses are logged at this cadence", ge=1)
    tags: tuple[str, ...] = setting((), "labels of the run in the trackers")
    log_checkpoint: bool = setting(False, "upload the best weights as an artifact where that exists")


class Machine(Strict):
    """Settings that never count as a change of the experiment."""

    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "where to compute")
    devices: int = setting(1, "so many GPUs share each batch, with a process for each", ge=1)
    workers: int | None = setting(None, "loader processes; none: by the number of cores", ge=0)
    compile: bool = setting(False, "torch.compile for the network: slow to start, faster steps")
    deterministic: bool = setting(False, "torch's deterministic algorithms: the same bits in each run, slower steps")
    valid_batch_size: int | None = setting(None, "rows per batch without gradients", ge=1)


class Watch(Strict):
    """What looks at the training. These settings never count as a change of the experiment."""

    non_finite: Literal["stop", "skip"] = setting(
        "stop", "after a loss or gradient that is not: stop, or leave the step out"
    )
    max_skips: int = setting(10, "so many steps of a fold are left out before it stops", ge=1)
    gradient_steps: int | None = setting(
        None, "how often gradients of each block are looked at; none: every 50, or ten times in all", ge=1
    )
    figure_epochs: int = setting(10, "pictures of every so-many-th epoch, and of the last; 0: of none", ge=0)
    extremes_by: str | None = setting(
        None, "what ranks batches and samples: loss, a term of it, or a metric; none: the task says"
    )
    explain: str | None = setting(None, "what Grad-CAM explains: HEAD or HEAD:CLASS; none: what the first head says")
    anomaly: bool = setting(False, "torch's anomaly detection throughout: slow, for debugging")

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
