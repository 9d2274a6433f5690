"""Randomness as a function of the seed and the position, so that a continued run draws what an unbroken one does."""

import random

import numpy as np
import torch


def seed_everything(*parts: int) -> None:
    """Seed `random`, NumPy and torch from a position such as (seed, epoch, batch)."""
    state = int(np.random.SeedSequence(parts).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)
