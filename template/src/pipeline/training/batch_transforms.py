"""Batch transforms: what happens to a prepared training batch on the device.

Mixing leaves the truth alone and says whom each sample was mixed with (`INPUT_PARTNER`) and how much of itself is left
(`INPUT_SHARE`); the criterion weighs the losses accordingly. So it works for any head and any loss. Random numbers come
from NumPy and torch on the CPU, which the loop seeds before each step.
"""

from typing import Literal

import numpy as np
import torch
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor

from pipeline.keys import INPUT_IMAGE, INPUT_PARTNER, INPUT_SHARE, INPUT_SIDE
from pipeline.types import Batch
from toolkit.errors import UserError


class Mixup:
    """mixup (Zhang et al., arXiv:1710.09412) and cutmix (Yun et al., arXiv:1905.04899), named as in timm.

    Each sample gets a partner of the same batch. mixup blends the two images, and cutmix pastes a box of the partner's;
    `INPUT_SHARE` is the share of the sample's own pixels after all, in float32.

    Args:
        mixup_alpha: the share is drawn from Beta(alpha, alpha); 0: no mixup.
        cutmix_alpha: the same for the area outside the box; 0: no cutmix.
        cutmix_minmax: smallest and largest side of the box as shares of the image's, instead of cutmix_alpha.
        prob: how often something is mixed at all.
        switch_prob: how often it is cutmix where both are on.
        mode: one draw for the batch, or one for each of its elements.
    """

    def __init__(
        self,
        *,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: tuple[float, float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: Literal["batch", "elem"] = "batch",
    ) -> None:
        if min(mixup_alpha, cutmix_alpha) < 0 or not (mixup_alpha or cutmix_alpha or cutmix_minmax):
            raise UserError(
                "batch transform 'mixup': mixup_alpha or cutmix_alpha must be more than 0, and none negative"
            )
        if cutmix_minmax is not None and not 0 < cutmix_minmax[0] < cutmix_minmax[1] <= 1:
            raise UserError("batch transform 'mixup': cutmix_minmax must be two shares that grow, such as [0.2, 0.8]")
        if not (0 <= prob <= 1 and 0 <= switch_prob <= 1):
            raise UserError("batch transform 'mixup': prob and switch_prob must be from 0 to 1")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = 1.0 if cutmix_minmax else cutmix_alpha
        self.minmax = cutmix_minmax
        self.prob, self.switch_prob, self.mode = prob, switch_prob, mode

    def __call__(self, batch: Batch) -> Batch:
        """The batch with mixed images (B, C, H, W), of the same dtype and memory format, and who is in them.

        Raises:
            UserError: the batch is mixed already.
        """
        if INPUT_PARTNER in batch:
            raise UserError("training.batch_transforms mixes twice; use one 'mixup' with mixup_alpha and cutmix_alpha")
        image: Tensor = batch[INPUT_IMAGE]
        size, height, width = len(image), *image.shape[2:]
        share, boxes = self._draw(size if self.mode == "elem" else 1, (height, width))
        partner = torch.randperm(size).to(image.device, non_blocking=True)
        own_share = torch.from_numpy(share).to(image.device, non_blocking=True)
        if boxes is None:
            weight = own_share.view(-1, 1, 1, 1)
        else:
            top, bottom, left, right = torch.from_numpy(boxes).to(image.device, non_blocking=True)[:, :, None]
            row, column = torch.arange(height, device=image.device), torch.arange(width, device=image.device)
            inside = ((row >= top) & (row < bottom))[:, :, None] & ((column >= left) & (column < right))[:, None]
            is_box = (bottom > top)[:, :, None]
            weight = torch.where(is_box, (~inside).float(), own_share[:, None, None])[:, None]
        mixed = torch.lerp(image[partner].float(), image.float(), weight).to(image.dtype)
        if INPUT_SIDE in batch:
            # A label of two samples needs what both know, and a mixture lacks what one of them lacks.
            own, left = batch[INPUT_SIDE], own_share[:, None]
            blend = torch.lerp(own[partner], own, left)
            batch = {**batch, INPUT_SIDE: torch.where(left < 1, blend, own)}
        channels_last = image.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        return {
            **batch,
            INPUT_IMAGE: mixed.contiguous(memory_format=memory_format),
            INPUT_PARTNER: partner,
            INPUT_SHARE: own_share.expand(size).contiguous(),
        }

    def _draw(self, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Shares float32 (count,), and boxes int64 (4, count) where there are any; an empty box stands for mixup."""
        share = np.ones(count, np.float32)
        boxes = np.zeros((4, count), np.int64)
        for sample in range(count):
            mixes, switches = np.random.rand(2)
            if mixes >= self.prob:
                continue
            if self.cutmix_alpha and (not self.mixup_alpha or switches < self.switch_prob):
                drawn = np.random.beta(self.cutmix_alpha, self.cutmix_alpha)
                boxes[:, sample], share[sample] = cutmix_bbox_and_lam(size, drawn, ratio_minmax=self.minmax)
            else:
                share[sample] = np.random.beta(self.mixup_alpha, self.mixup_alpha)
        return share, boxes if boxes.any() else None


def cutmix(
    *,
    cutmix_alpha: float = 1.0,
    cutmix_minmax: tuple[float, float] | None = None,
    prob: float = 1.0,
    mode: Literal["batch", "elem"] = "batch",
) -> Mixup:
    """`mixup` with cutmix alone; its parameters are those of `Mixup`."""
    if not (cutmix_alpha or cutmix_minmax):
        raise UserError("batch transform 'cutmix': cutmix_alpha must be more than 0")
    return Mixup(mixup_alpha=0.0, cutmix_alpha=cutmix_alpha, cutmix_minmax=cutmix_minmax, prob=prob, mode=mode)
