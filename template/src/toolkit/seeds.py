"""Randomness as a function of a position."""

import random

import numpy as np
import torch


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
