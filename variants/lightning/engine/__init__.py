"""Lightning as the engine: it owns the loop, device, precision and accumulation of a fold's run.

Everything else (what a step is, metrics, logs, checkpoints, the learning rate) is the pipeline's `Run`. The only
module that imports Lightning.
"""

import logging
import warnings
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from pipeline.types import Batch, Batches, Run
from toolkit.errors import UserError

NAME = "lightning"
PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {"fp32": "32-true", "bf16": "bf16-mixed"}  # fp16: a plugin


class FoldModule(lightning.LightningModule):
    """Passes Lightning's hooks on to the loop, in the order that `Run` promises."""

    def __init__(self, loop: Run) -> None:
        super().__init__()
        self.loop = loop
        self.model = loop.model

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # set 40 times a step, and `nn.Module` would look at each value closely
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.loop.optimizer

    def train_dataloader(self) -> Batches:
        return self.loop.train_batches()

    def val_dataloader(self) -> Batches:
        return self.loop.valid_batches()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # it is there, and Lightning would look into every string of it

    def on_train_start(self) -> None:
        self.loop.watch_signals()  # Lightning has just put its own handlers in their place

    def on_train_epoch_start(self) -> None:
        self.loop.epoch_start()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loop.train_batch(batch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.loop.gradients_ready()  # they are unscaled by now

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.loop.stepped()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.loop.batch_end()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.loop.valid_batch(batch)

    def on_train_epoch_end(self) -> None:  # Lightning validates before it calls this
        self.loop.epoch_end()


def fit(loop: Run) -> None:
    """Train from where the loop stands to its last epoch."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        max_epochs=loop.epochs - loop.progress.epoch,
        accelerator=loop.device.type,
        **distribution_arguments(loop),
        callbacks=native_callbacks(loop),
        accumulate_grad_batches=loop.config.training.accumulate,
        limit_val_batches=None if len(loop.valid_batches()) else 0,
        reload_dataloaders_every_n_epochs=1,  # an epoch that continues is shorter than the next one
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=PRECISION.get(loop.precision),
        plugins=plugins(loop),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice on loaders and loggers that it does not own here
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # DDP's, of no consequence
        try:
            trainer.fit(FoldModule(loop))
        except SystemExit as left:  # which Lightning makes of a KeyboardInterrupt
            raise left.__context__ or left  # noqa: B904


def native_callbacks(loop: Run) -> list[lightning.Callback]:
    """What the experiment names under `engine_callbacks`."""
    for callback in loop.engine_callbacks:
        if not isinstance(callback, lightning.Callback):
            raise UserError(
                f"engine_callbacks: {type(callback).__name__} is no lightning.Callback; derive it from that"
            )
    return list(loop.engine_callbacks)


def distribution_arguments(loop: Run) -> dict[str, Any]:
    """One device, or this process's part of several, whose gradients DDP averages."""
    processes = loop.processes
    if processes.size == 1:
        return {"devices": 1}
    return {
        "devices": processes.local_size,
        "num_nodes": processes.size // processes.local_size,
        # A frozen part, or a head without a loss, has no gradient to wait for.
        "strategy": DDPStrategy(find_unused_parameters=True),
    }


def plugins(loop: Run) -> list[Any]:
    """Who is who among several processes stands in the environment; fp16 scales with the loop's own scaler, so that it
    can be resumed."""
    chosen: list[Any] = [] if loop.processes.size == 1 else [TorchElasticEnvironment()]
    if loop.precision == "fp16":
        chosen.append(MixedPrecision("16-mixed", loop.device.type, scaler=loop.scaler))
    return chosen
