"""What an operation did that it should not have, in words, and what helps."""

import math
from collections.abc import Callable, Sequence

from toolkit.debug.non_finite import Origin, Range

LARGE = 1e4  # no weight of a healthy network is as large
HALF = 65504.0  # the largest number of float16
NARROW = ("float16",)


def cause(origin: Origin, last_rate: float = 0.0, has_trained: bool = True) -> str:
    """One sentence: why the value is not finite, as far as the operation tells, and what to try.

    Args:
        last_rate: the learning rate of the last optimiser step.
        has_trained: whether the optimiser has stepped at all.
    """
    if origin.phase == "weights":
        return _of_weights(origin, last_rate, has_trained)
    if origin.phase == "batch":
        return f"the batch already holds {_found(origin.outputs)}: look at the reader, the augmentations and the label"
    rules = BACKWARD if origin.phase == "backward" else FORWARD
    for names, explain in rules:
        if origin.operation.rstrip("_") in names and (words := explain(origin)):
            return words
    return _overflow(origin, last_rate) or f"'{origin.operation}' made {_found(origin.outputs)} of finite numbers"


def _of_weights(origin: Origin, last_rate: float, has_trained: bool) -> str:
    if not has_trained:
        return "it was so before the first step: look at how the layer is initialised, or at the weights it was given"
    return (
        f"the optimiser wrote it in the step before (learning rate {last_rate:.3g}): look at its settings, above all "
        "a tiny `eps` and the learning rate"
    )


def _overflow(origin: Origin, last_rate: float) -> str:
    """Why finite numbers became infinite: they were too large."""
    largest = _largest(origin)
    if any(one.dtype in NARROW for one in origin.outputs) and largest > 1.0:
        return (
            f"numbers up to {largest:.3g} met float16, which ends at {HALF:g}: train in bf16 or fp32, or compute this "
            "part in fp32"
        )
    if largest > LARGE:
        rate = f"; the learning rate was {last_rate:.3g}" if last_rate else ""
        return (
            f"it overflowed on numbers up to {largest:.3g}, so what comes before it has grown out of bounds{rate}: "
            "lower the rate, warm up longer, clip gradients, or look at how layers are initialised"
        )
    return ""


def _largest(origin: Origin) -> float:
    """The largest absolute value that the operation took."""
    return max((max(abs(one.low), abs(one.high)) for one in origin.inputs if not math.isnan(one.low)), default=0.0)


def _log(origin: Origin) -> str:
    low = origin.inputs[0].low + (origin.operation == "log1p")
    what = f"log of a negative number ({low:.3g})" if low < 0 else "log of zero" if low == 0 else ""
    return what and f"{what}: clamp what goes in, or use a form that works on logits (logsigmoid, log_softmax)"


def _root(origin: Origin) -> str:
    one = origin.inputs[0]
    if one.low < 0:
        return f"square root of a negative number ({one.low:.3g}): clamp what goes in at a small positive number"
    return "one over the square root of zero: add a small number inside the root" if one.smallest == 0 else ""


def _divided(origin: Origin) -> str:
    below = origin.inputs[-1]
    return "division by zero: add a small number below the line" if below.smallest == 0 else ""


def _raised(origin: Origin) -> str:
    base = origin.inputs[0]
    if base.low < 0:
        return f"a negative number ({base.low:.3g}) to a power that is not whole: clamp the base at zero"
    return "zero to a negative power: add a small number to the base" if base.smallest == 0 else ""


def _grown(origin: Origin) -> str:
    return f"exponential of {origin.inputs[0].high:.3g}: clamp it, or subtract the largest first (logsumexp, softmax)"


def _angle(origin: Origin) -> str:
    return "arc cosine or sine of a number beyond -1 to 1: clamp what goes in"


def _averaged(origin: Origin) -> str:
    if not any(0 in one.shape for one in origin.inputs):
        return ""
    return "the mean of nothing: the tensor is empty, perhaps after a mask; leave such batches out"


def _ignored(origin: Origin) -> str:
    return "the mean of nothing: every target is one that is ignored; sum instead, and divide by at least one"


def _normed(origin: Origin) -> str:
    if _largest(origin) > LARGE:
        return ""
    return "the variance is zero (equal numbers, or a single one) and `eps` too small: raise `eps`"


def _spread(origin: Origin) -> str:
    return "the spread of a single number, or of none: use correction=0, or leave such batches out"


def _vanished(what: str, remedy: str) -> Callable[[Origin], str]:
    return lambda origin: f"the gradient of {what} is infinite: {remedy}"


Rules = Sequence[tuple[tuple[str, ...], Callable[[Origin], str]]]
FORWARD: Rules = (
    (("log", "log2", "log10", "log1p", "xlogy"), _log),
    (("sqrt", "rsqrt"), _root),
    (("div", "reciprocal", "true_divide", "floor_divide", "remainder"), _divided),
    (("pow",), _raised),
    (("exp", "expm1", "exp2", "sinh", "cosh"), _grown),
    (("acos", "asin", "atanh", "acosh"), _angle),
    (("mean",), _averaged),
    (("std", "var", "std_mean", "var_mean"), _spread),
    (("nll_loss_forward", "nll_loss2d_forward"), _ignored),
    (("native_batch_norm", "native_layer_norm", "native_group_norm", "cudnn_batch_norm"), _normed),
)
BACKWARD: Rules = (
    (("sqrt", "pow", "norm", "linalg_vector_norm"), _vanished("a root at zero", "add a small number inside the root")),
    (("log", "log2", "log10", "xlogy"), _vanished("log at zero", "clamp what goes in before the log, not behind it")),
    (("acos", "asin"), _vanished("arc cosine at -1 and 1", "clamp what goes in a little inside of these")),
    (("div", "reciprocal"), _vanished("a division by zero", "mask what is divided, not the result")),
    (("std", "var"), _vanished("the spread of equal numbers", "add a small number to the variance before the root")),
    (("exp", "exp2"), _vanished("such a large exponential", "clamp what goes in")),
)


def _found(ranges: Sequence[Range]) -> str:
    nans, infs = sum(one.nans for one in ranges), sum(one.infs for one in ranges)
    return " and ".join(f"{count:,} {name}" for count, name in ((nans, "NaN"), (infs, "Inf")) if count) or "NaN"
