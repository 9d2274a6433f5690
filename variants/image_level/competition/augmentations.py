"""What happens to images on the CPU. The keyword-only parameters are settings of an experiment:

augmentations: {name: default, params: {strength: 0.5, flip: false}}
"""

import albumentations as A
import cv2


def augmentations(
    stage: str, size: tuple[int, int], *, strength: float = 1.0, flip: bool = True, rotate: float = 15.0
) -> A.Compose:
    """The pipeline of a stage: `train`, `valid` or `test`. Images leave it as (height, width) = `size`.

    Normalising is not done here: images travel as they are to the device, which is faster.

    Args:
        strength: scales every change of geometry and colour; 0 switches them off.
        flip: whether a mirror image still shows the same class.
        rotate: largest angle in degrees.
    """
    resize = A.Resize(*size, interpolation=cv2.INTER_AREA)
    if stage != "train" or strength == 0:
        return A.Compose([resize])
    steps = [
        resize,
        A.Affine(
            scale=(1 - 0.15 * strength, 1 + 0.15 * strength),
            translate_percent=(-0.08 * strength, 0.08 * strength),
            rotate=(-rotate * strength, rotate * strength),
            p=0.8,
        ),
        A.RandomBrightnessContrast(brightness_limit=0.2 * strength, contrast_limit=0.2 * strength, p=0.5),
    ]
    if flip:
        steps.insert(1, A.HorizontalFlip(p=0.5))
    return A.Compose(steps)
