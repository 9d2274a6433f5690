"""The usual step, and the seeds that make what it draws a function of its position."""

import random

import numpy as np
import torch

from pipeline.keys import INPUT_PARTNER, INPUT_ROW, INPUT_SHARE
from pipeline.types import Batch, PreparedModel, StepContext, StepResult


def step(batch: Batch, model: PreparedModel, context: StepContext) -> StepResult:
    """The usual step: batch in, losses and detached outputs out."""
    prepared = model.prepare(batch)
    for transform in context.transforms:
        prepared = transform(prepared)
    outputs = model.network(prepared)
    result = context.criterion(outputs, prepared)
    found: StepResult = {
        "loss": result["loss"],
        "losses": result["losses"],
        "sample_losses": result["sample_losses"],
        "outputs": {key: value.detach() for key, value in outputs.items()},
    }
    if INPUT_PARTNER in prepared:
        # By row: a position in the batch would mean nothing once the shares of several processes are joined.
        found["mixed"] = {
            INPUT_PARTNER: prepared[INPUT_ROW][prepared[INPUT_PARTNER]],
            INPUT_SHARE: prepared[INPUT_SHARE],
        }
    return found


def seed_everything(*parts: int) -> None:
    """Seed `random`, NumPy and torch from a position such as (seed, epoch, batch).

    So a continued run draws what an unbroken one does. `torch.manual_seed` does the same and takes a millisecond, since
    it notes the call's stack for devices that have not started yet.
    """
    state = int(np.random.SeedSequence(parts).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.default_generator.manual_seed(state)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(state)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(state)
