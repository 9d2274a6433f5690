"""Flips and a little brightness."""

import albumentations as A


def augmentations(stage: str, size: tuple[int, int], *, brightness: float = 0.1) -> A.Compose:
    if stage != "train":
        return A.Compose([A.Resize(*size)])
    change = A.RandomBrightnessContrast(brightness_limit=brightness, contrast_limit=brightness)
    return A.Compose([A.Resize(*size), A.HorizontalFlip(p=0.5), change])
