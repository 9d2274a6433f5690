"""Augmentations whose draws are a function of seed, epoch and row alone, whichever process asks for them."""

import random
from collections.abc import Sequence

import albumentations as A
import cv2
import numpy as np

from toolkit.errors import UserError

Size = tuple[int, int]


class Augmenting:
    """A pipeline of albumentations that is seeded anew for each sample, and has to end with height and width `size`."""

    def __init__(self, pipeline: A.Compose, size: Size) -> None:
        self.pipeline, self.size, self.random = pipeline, size, random.Random()

    def __call__(
        self,
        image: np.ndarray,
        seeds: np.random.SeedSequence,
        masks: Sequence[np.ndarray] = (),
        draw: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """An image (H, W, C) and its masks (H, W), as they come out.

        Args:
            seeds: of this sample.
            draw: what has drawn from these seeds before; none: nothing has.
        """
        # Albumentations ignores the global seeds. One pair of generators serves all transforms: with `set_random_seed`
        # each would draw what its neighbours draw.
        self.random.seed(int(seeds.generate_state(1)[0]))
        self.pipeline.set_random_state(draw or np.random.Generator(np.random.PCG64(seeds)), self.random)
        made = self.pipeline(image=image, masks=list(masks)) if masks else self.pipeline(image=image)
        image, masks = made["image"], list(made.get("masks", []))
        for part in (image, *masks):
            if part.shape[:2] != self.size:
                made = "the augmentations gave an image or a mask of {}x{}, and image.size is {}x{}"
                remedy = "end every pipeline in augmentations.py with that size"
                raise UserError(f"{made.format(*part.shape[:2], *self.size)}; {remedy}")
        return np.ascontiguousarray(image), masks


def resize(stage: str, size: Size) -> A.Compose:
    """No augmentation at all: images of (height, width) = `size` in every stage."""
    return A.Compose([A.Resize(*size, interpolation=cv2.INTER_AREA)])
