"""Lightning as the engine: it owns the loop, device, precision and accumulation of a fold's run.

Everything else (what a step is, metrics, logs, checkpoints, the learning rate) is the pipeline's `Run`. The only
module that imports Lightning.
"""

import logging
import warnings
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from pipeline.types import Batch, Batches, Run
from toolkit.errors import UserError

NAME = "lightning"


class FoldModule(lightning.LightningModule):
    """Passes Lightning's hooks on to the run, in the order that `Run` promises."""

    # Lightning sets a name 40 times a step, and `nn.Module` would look at each value closely.
    __setattr__ = object.__setattr__  # type: ignore[assignment]

    def __init__(self, loop: Run) -> None:
        super().__init__()
        self.loop = loop
        self.add_module("model", loop.model)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.loop.optimizer

    def train_dataloader(self) -> Batches:
        return self.loop.train_batches()

    def val_dataloader(self) -> Batches:
        return self.loop.valid_loader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # it is there, and Lightning would look into every string of it

    def on_train_start(self) -> None:
        self.loop.signals.watch()  # Lightning has just put its own handlers in their place

    def on_train_epoch_start(self) -> None:
        self.loop.epoch_start()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loop.train_batch(batch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if getattr(optimizer, "_step_supports_amp_scaling", False):  # Lightning leaves these scaled
            self.loop.scaler.unscale_(optimizer)
        self.loop.gradients_ready()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.loop.batch_end()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.loop.valid_batch(batch)

    def on_train_epoch_end(self) -> None:  # Lightning validates before it calls this
        self.loop.epoch_end()

    def cpu(self) -> "FoldModule":
        return self  # after the last epoch Lightning would move the model, and the fold is still to be finished


def fit(loop: Run) -> None:
    """Train from where the run stands to its last epoch."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for callback in loop.engine_callbacks:
        if not isinstance(callback, lightning.Callback):
            name = type(callback).__name__
            raise UserError(f"engine_callbacks: {name} is no lightning.Callback; derive it from that")
    processes, plugins, devices = loop.processes, list[Any](), dict[str, Any](devices=1)
    if processes.size > 1:  # who is who stands in the environment
        plugins.append(TorchElasticEnvironment())
        # A frozen part, or a head without a loss, has no gradient to wait for.
        devices = {"devices": processes.local_size, "strategy": DDPStrategy(find_unused_parameters=True)}
    if loop.precision == "fp16":  # the run's own scaler, so that it can be resumed
        plugins.append(MixedPrecision("16-mixed", loop.device.type, scaler=loop.scaler))
    trainer = lightning.Trainer(
        max_epochs=loop.epochs - loop.progress.epoch,
        accelerator=loop.device.type,
        **devices,
        num_nodes=processes.size // processes.local_size,
        callbacks=list(loop.engine_callbacks),
        accumulate_grad_batches=loop.config.training.accumulate,
        limit_val_batches=None if len(loop.valid_loader) else 0,
        reload_dataloaders_every_n_epochs=1,  # an epoch that continues is shorter than the next one
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        detect_anomaly=loop.config.watch.anomaly,
        precision={"fp32": "32-true", "bf16": "bf16-mixed"}.get(loop.precision),  # type: ignore[arg-type]
        plugins=plugins,
    )
    # Several GPUs would tell each other of a signal in every batch, and wait for it; the run sees to signals itself.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice on loaders and loggers that it does not own here
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # DDP's, of no consequence
        try:
            trainer.fit(FoldModule(loop))
        except SystemExit as left:  # which Lightning makes of a KeyboardInterrupt
            raise left.__context__ or left  # noqa: B904
