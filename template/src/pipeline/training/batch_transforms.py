"""Batch transforms: what happens to a prepared training batch on the device.

Mixing leaves the truth alone and says whom each sample was mixed with (`INPUT_PARTNER`) and how much of itself is left
(`INPUT_SHARE`), by which the criterion weighs any loss. Random numbers are those of the CPU, seeded before each step.
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
    """mixup (Zhang et al., arXiv:1710.09412) and cutmix (Yun et al., arXiv:1905.04899), with timm's arguments.

    Each sample gets a partner of the same batch. mixup blends the two images, and cutmix pastes a box of the partner's;
    `INPUT_SHARE` is the share of the sample's own pixels after all, float32. Shares are drawn from Beta(alpha, alpha),
    and an alpha of 0 turns one off; `cutmix_minmax`, the sides of the box as shares, stands in for that of cutmix.
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
        low, high = cutmix_minmax or (0.1, 1.0)
        is_off = min(mixup_alpha, cutmix_alpha) < 0 or not (mixup_alpha or cutmix_alpha or cutmix_minmax)
        if is_off or not (0 < low < high <= 1 and 0 <= prob <= 1 and 0 <= switch_prob <= 1):
            raise UserError(
                "batch transforms mixup and cutmix: mixup_alpha or cutmix_alpha must be more than 0 and none negative, "
                "prob and switch_prob from 0 to 1, cutmix_minmax two shares that grow, such as [0.2, 0.8]"
            )
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, 1.0 if cutmix_minmax else cutmix_alpha
        self.minmax, self.prob, self.switch_prob, self.mode = cutmix_minmax, prob, switch_prob, mode

    def __call__(self, batch: Batch) -> Batch:
        """The batch with mixed images (B, C, H, W), of the same dtype and memory format, and who is in them; a
        `UserError` where it is mixed already."""
        if INPUT_PARTNER in batch:
            raise UserError("training.batch_transforms mixes twice; use one 'mixup' with mixup_alpha and cutmix_alpha")
        image: Tensor = batch[INPUT_IMAGE]
        size, height, width, device = len(image), *image.shape[2:], image.device
        drawn, boxes = self._draw(size if self.mode == "elem" else 1, (height, width))
        partner, share = _sent(torch.randperm(size), device), _sent(torch.from_numpy(drawn), device)
        weight = share.view(-1, 1, 1, 1)
        if boxes.any():
            top, bottom, left, right = _sent(torch.from_numpy(boxes), device)[:, :, None]
            row, column = torch.arange(height, device=device), torch.arange(width, device=device)
            inside = ((row >= top) & (row < bottom))[:, :, None] & ((column >= left) & (column < right))[:, None]
            weight = torch.where((bottom > top)[:, :, None], (~inside).float(), share[:, None, None])[:, None]
        mixed = torch.lerp(image[partner].float(), image.float(), weight).to(image.dtype)
        if image.is_contiguous(memory_format=torch.channels_last):
            mixed = mixed.contiguous(memory_format=torch.channels_last)
        else:
            mixed = mixed.contiguous()
        found = {**batch, INPUT_IMAGE: mixed, INPUT_PARTNER: partner, INPUT_SHARE: share.expand(size).contiguous()}
        if INPUT_SIDE in batch:
            # A label of two samples needs what both know, and a mixture lacks what one of them lacks.
            own, left = batch[INPUT_SIDE], share[:, None]
            found[INPUT_SIDE] = torch.where(left < 1, torch.lerp(own[partner], own, left), own)
        return found

    def _draw(self, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Shares float32 (count,) and boxes int64 (4, count); an empty box stands for mixup."""
        share, boxes = np.ones(count, np.float32), np.zeros((4, count), np.int64)
        for sample in range(count):
            mixes, switches = np.random.rand(2)
            if mixes >= self.prob:
                continue
            if self.cutmix_alpha and (not self.mixup_alpha or switches < self.switch_prob):
                drawn = np.random.beta(self.cutmix_alpha, self.cutmix_alpha)
                boxes[:, sample], share[sample] = cutmix_bbox_and_lam(size, drawn, ratio_minmax=self.minmax)
            else:
                share[sample] = np.random.beta(self.mixup_alpha, self.mixup_alpha)
        return share, boxes


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """A few numbers on the device. From memory that is not pinned, a GPU would wait for the steps before."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def cutmix(
    *,
    cutmix_alpha: float = 1.0,
    cutmix_minmax: tuple[float, float] | None = None,
    prob: float = 1.0,
    mode: Literal["batch", "elem"] = "batch",
) -> Mixup:
    """`mixup` with cutmix alone; its parameters are those of `Mixup`."""
    return Mixup(mixup_alpha=0.0, cutmix_alpha=cutmix_alpha, cutmix_minmax=cutmix_minmax, prob=prob, mode=mode)
