"""What a teacher says of the batch, as a loss: its live outputs, for the very images that the student sees."""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import Head
from pipeline.keys import INPUT_IMAGE
from pipeline.losses.criterion import take
from pipeline.types import Batch, PreparedModel
from toolkit.errors import UserError

SOFTMAX, NUMBER = "softmax", "number"  # what logits of a head are, see `HeadKind.logits`
SIGMOID = ("sigmoid", "cumulative")  # yes or no each


class Distillation(nn.Module):
    """`T^2 KL(teacher || student)` of probabilities softened by the temperature T (Hinton, Vinyals and Dean,
    arXiv:1503.02531), the sum over all heads: the formula of timm's `LogitDistillationTask`, one value per sample.

    Where classes, or pixels of one class each, share a probability it is that of the softmax, where each logit is a
    question of its own (labels, grades, planes of masks) the mean of its two answers, over pixels the mean as well; of
    numbers it is the squared difference in standard deviations of the teacher's rows. The teacher sees what the student
    sees, mixed images included; it is frozen, and of several seeds the probabilities are averaged.

    Args:
        teacher: an experiment that is trained on the same folds; fold k learns from its model of fold k.
        temperature: T, above 0. The larger, the more the classes count that are not the best one.
    """

    def __init__(self, head: Head | None, *, teacher: str, temperature: float = 1.0) -> None:
        super().__init__()
        if head is not None:
            raise UserError("loss 'distillation' is about all heads; leave 'head' out of its row in losses")
        if not 0 < temperature < math.inf:
            raise UserError(f"loss 'distillation': temperature must be above 0 (it is {temperature})")
        self.teacher, self.temperature, self.heads = teacher, temperature, dict[Head, str]()
        self.models, self.deviations = nn.ModuleList(), dict[str, float]()
        self.scales: list[tuple[Tensor, Tensor] | None] = []
        self.last: tuple[Callable[[], Any], list[dict[str, Tensor]]] = (lambda: None, [])

    def set_teacher(self, models: Sequence[PreparedModel], prepare: nn.Module, heads: Mapping[Head, str]) -> None:
        """Learn these heads, each with what its logits are, from these models, on the device, given the student's
        `Prepare`; a `UserError` where a head cannot be learnt so, or images are not prepared alike."""
        for head, logits in heads.items():
            if logits not in (SOFTMAX, *SIGMOID, NUMBER):
                raise UserError(f"loss 'distillation': no teacher can say '{head.name}', of the kind '{head.kind}'")
            layers = [part for part in models[0].modules() if getattr(part, "head", None) == head.name]
            found = [float(part.get_buffer("deviation")) for part in layers if hasattr(part, "deviation")]
            self.deviations[head.name] = found[0] if found else 1.0
        self.heads, self.models = dict(heads), nn.ModuleList(models).eval().requires_grad_(False)
        self.scales = [_rescaling(prepare, model.prepare) for model in models]

    def forward(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Float32 (B,)."""
        image: Tensor = batch[INPUT_IMAGE]
        if self.last[0]() is not image:  # a mixed batch comes twice, with the truth of both
            models = zip(self.models, self.scales, strict=True)
            self.last = weakref.ref(image), [self._said(batch, *each) for each in models]
        total = torch.zeros(len(image), device=image.device)
        for head in self.heads:
            given = take(outputs, head.output_key, "loss 'distillation'", "the model returns")
            wanted = torch.stack([said[head.output_key] for said in self.last[1]])
            total = total + self._of_head(head, given.float(), wanted.float())
        return total

    @torch.no_grad()
    def _said(self, batch: Batch, model: Any, scales: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
        """The outputs of one model for images as the student's `Prepare` left them."""
        image = batch[INPUT_IMAGE]
        if scales is not None:
            image = image * scales[0] + scales[1]
        try:
            outputs: dict[str, Tensor] = model.network({**batch, INPUT_IMAGE: image})
        except AssertionError as error:  # timm's, of encoders that are built for one size
            raise UserError(f"loss 'distillation': '{self.teacher}' wants another image.size ({error})") from error
        return outputs

    def _of_head(self, head: Head, given: Tensor, wanted: Tensor) -> Tensor:
        """Of one head, (B,): the student's logits (B, C, ...), and those of each model, (models, B, C, ...)."""
        if self.heads[head] == NUMBER:
            errors = (given - wanted.mean(dim=0)) / self.deviations[head.name]
            return errors.square().flatten(1).mean(dim=1)
        if given.shape[2:] != wanted.shape[3:]:  # decoders of another stride
            wanted = torch.stack([functional.interpolate(each, given.shape[2:], mode="bilinear") for each in wanted])
        if self.heads[head] in SIGMOID:  # yes or no, as a choice between two
            given, wanted = (torch.stack([x, torch.zeros_like(x)], dim) for dim, x in ((1, given), (2, wanted)))
        log_q = (given / self.temperature).log_softmax(dim=1)
        log_p = (wanted / self.temperature).log_softmax(dim=2).logsumexp(dim=0) - math.log(len(wanted))
        divergence = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
        return self.temperature**2 * divergence.reshape(len(given), -1).mean(dim=1)


def _rescaling(own: Any, its: Any) -> tuple[Tensor, Tensor] | None:
    """Factor and summand that make of images as `own` normalises them those of `its`, as timm's `normalize_input`; none
    where they are the same."""
    if not (hasattr(own, "scale") and hasattr(its, "scale")):
        if type(own) is not type(its):
            raise UserError("loss 'distillation': teacher and student prepare images in other ways (image.prepare)")
        return None
    if torch.equal(own.scale, its.scale) and torch.equal(own.shift, its.shift):
        return None
    return its.scale / own.scale, its.shift - own.shift * its.scale / own.scale
