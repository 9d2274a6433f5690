"""Mirror images."""

import albumentations as A


def augmentations(stage: str, size: tuple[int, int]) -> A.Compose:
    return A.Compose([A.HorizontalFlip(p=0.5 if stage == "train" else 0.0)])
