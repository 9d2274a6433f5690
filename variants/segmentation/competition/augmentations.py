"""What happens to images and their masks on the CPU. The keyword-only parameters are settings of an experiment:

augmentations: {name: default, params: {strength: 0.5, flip: false}}
"""

import albumentations as A


def augmentations(
    stage: str, size: tuple[int, int], *, strength: float = 1.0, flip: bool = True, turn: bool = False
) -> A.Compose:
    """The pipeline of a stage: `train`, `valid` or `test`. Images and masks come as (height, width) = `size`, and leave
    it so.

    Normalising is not done here: images travel as they are to the device, which is faster.

    Args:
        strength: scales every change of geometry and colour; 0 switches them off.
        flip: whether a mirror image is as likely.
        turn: whether up and down mean nothing, as in satellite images and slides.
    """
    if stage != "train" or strength == 0:
        return A.Compose([A.NoOp()])
    steps = [
        A.Affine(scale=(1 - 0.2 * strength, 1 + 0.2 * strength), rotate=(-15 * strength, 15 * strength), p=0.5),
        A.RandomBrightnessContrast(brightness_limit=0.2 * strength, contrast_limit=0.2 * strength, p=0.5),
    ]
    if turn:
        steps.insert(0, A.SquareSymmetry(p=1.0) if size[0] == size[1] else A.VerticalFlip(p=0.5))
    if flip:
        steps.insert(0, A.HorizontalFlip(p=0.5))
    return A.Compose(steps)
