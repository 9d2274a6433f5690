"""What an operation did that it should not have, in words, and what helps."""

import math
from collections.abc import Callable

from toolkit.debug.non_finite import Origin, Range

LARGE = 1e4  # no weight of a healthy network is as large
LOG, LOGIT = "log log2 log10 xlogy", "clamp what goes in, or use a form that works on logits (logsigmoid, log_softmax)"
SPREAD, NORM = "std var std_mean var_mean", "native_batch_norm native_layer_norm native_group_norm cudnn_batch_norm"
IGNORED = "the mean of nothing: every target is one that is ignored; sum instead, and divide by at least one"

# Operations; what holds for the first and the last tensor that they took; why the result is not finite, what to try.
FORWARD: tuple[tuple[str, Callable[[Range, Range], bool], str], ...] = (
    (LOG, lambda x, _: x.low < 0, f"log of a negative number ({{x.low:.3g}}): {LOGIT}"),
    (LOG, lambda x, _: x.low == 0, f"log of zero: {LOGIT}"),
    ("log1p", lambda x, _: x.low < -1, f"log of a negative number (1 + {{x.low:.3g}}): {LOGIT}"),
    ("log1p", lambda x, _: x.low == -1, f"log of zero: {LOGIT}"),
    ("sqrt rsqrt", lambda x, _: x.low < 0, "square root of a negative number ({x.low:.3g}): clamp it above zero"),
    ("sqrt rsqrt", lambda x, _: x.smallest == 0, "one over the square root of zero: add a small number inside"),
    ("div reciprocal true_divide", lambda _, y: y.smallest == 0, "division by zero: add a small number below the line"),
    ("floor_divide remainder", lambda _, y: y.smallest == 0, "division by zero: add a small number below the line"),
    ("pow", lambda x, _: x.low < 0, "a negative number ({x.low:.3g}) to a power that is not whole: clamp it at zero"),
    ("pow", lambda x, _: x.smallest == 0, "zero to a negative power: add a small number to the base"),
    ("exp expm1 exp2 sinh cosh", lambda *_: True, "exponential of {x.high:.3g}: clamp it, or use logsumexp or softmax"),
    ("acos asin atanh acosh", lambda *_: True, "arc cosine or sine of a number beyond -1 to 1: clamp what goes in"),
    ("mean", lambda x, _: 0 in x.shape, "the mean of nothing: the tensor is empty, perhaps after a mask"),
    (SPREAD, lambda *_: True, "the spread of a single number, or of none: use correction=0, or leave it out"),
    ("nll_loss_forward nll_loss2d_forward", lambda *_: True, IGNORED),
    (NORM, lambda x, _: max(-x.low, x.high) <= LARGE, "the variance is zero and `eps` too small: raise `eps`"),
)
BACKWARD = {
    "sqrt pow norm linalg_vector_norm": "a root at zero is infinite: add a small number inside the root",
    LOG: "log at zero is infinite: clamp what goes in before the log, not behind it",
    "acos asin": "arc cosine at -1 and 1 is infinite: clamp what goes in a little inside of these",
    "div reciprocal": "a division by zero is infinite: mask what is divided, not the result",
    SPREAD: "the spread of equal numbers is infinite: add a small number to the variance before the root",
    "exp exp2": "such a large exponential is infinite: clamp what goes in",
}


def cause(origin: Origin, last_rate: float = 0.0, has_trained: bool = True) -> str:
    """One sentence: why the value is not finite, as far as the operation tells, and what to try.

    Args:
        last_rate: the learning rate of the last optimiser step.
        has_trained: whether the optimiser has stepped at all.
    """
    counts = {"NaN": sum(one.nans for one in origin.outputs), "Inf": sum(one.infs for one in origin.outputs)}
    found = " and ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    if origin.phase == "weights" and not has_trained:
        return "it was so before the first step: look at how the layer is initialised, or at the weights it was given"
    if origin.phase == "weights":
        return f"the optimiser wrote it in the step before: a tiny `eps`, or the learning rate {last_rate:.3g}"
    if origin.phase == "batch":
        return f"the batch already holds {found}: look at the reader, the augmentations and the label"
    name = origin.operation.rstrip("_")  # what works in place
    if origin.phase == "backward":
        for names, words in BACKWARD.items():
            if name in names.split():
                return f"the gradient of {words}"
    else:
        for names, holds, words in FORWARD:
            if name in names.split() and holds(origin.inputs[0], origin.inputs[-1]):
                return words.format(x=origin.inputs[0])
    largest = max((max(-one.low, one.high) for one in origin.inputs if not math.isnan(one.low)), default=0.0)
    if largest > 1 and any(one.dtype == "float16" for one in origin.outputs):
        return f"numbers up to {largest:.3g} met float16, which ends at 65504: train, or compute this, in bf16 or fp32"
    if largest > LARGE:
        rate = f"; the learning rate was {last_rate:.3g}" if last_rate else ""
        return (
            f"it overflowed on numbers up to {largest:.3g}, so what comes before it has grown out of bounds{rate}: "
            "lower the rate, warm up longer, clip gradients, or look at how layers are initialised"
        )
    return f"'{origin.operation}' made {found} of finite numbers"
