"""Where the first value came from that is not finite, of all that reached a loss or a gradient of one training step."""

import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules import module as global_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Phase = Literal["batch", "weights", "forward", "backward"]
MODULE = "module"  # where a node of the graph keeps the name of the module that made it
TRACEBACK = "traceback_"  # where anomaly detection keeps the lines that made it
FRAME = re.compile(r'File "(.+?)", line (\d+), in [^\n]*(?:\n {4}(\S[^\n]*))?')
UNSET = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")  # memory that nobody has written
HERE = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


@dataclass(frozen=True)
class Range:
    """What stands in a tensor that an operation took or gave."""

    shape: tuple[int, ...]
    dtype: str
    low: float  # of the finite values; NaN where there are none
    high: float
    smallest: float  # the least absolute value
    nans: int
    infs: int

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}: {self.low:.4g} to {self.high:.4g}, {self.nans} NaN, {self.infs} Inf"

    @classmethod
    def of(cls, values: Tensor | float) -> "Range":
        tensor = torch.as_tensor(values).detach()
        nans, infs = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
        # Nothing is copied that need not be: a step that failed mostly fills the memory.
        every = tensor if tensor.is_floating_point() else tensor.double()
        finite = every[torch.isfinite(every)] if nans or infs else every
        low, high, smallest = (torch.nan,) * 3
        if finite.numel():
            low, high, smallest = float(finite.min()), float(finite.max()), float(finite.abs().min())
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(tuple(tensor.shape), dtype, low, high, smallest, nans, infs)


@dataclass
class Origin:
    """The operation or tensor that gave the first value that is not finite.

    Attributes:
        phase: `batch` and `weights` held the value before the step began.
        operation: of torch, such as `log`; in the backward pass the one that is differentiated; otherwise a key, or the
            name of a parameter.
        place: the innermost module that ran it, by its name in the model or its class, and the innermost line outside
            of torch; as far as there are any.
        inputs, outputs: what it took and gave; numbers count as tensors without dimension.
        rows: positions in the batch of what is not finite; empty where that cannot be told.
    """

    phase: Phase
    operation: str
    place: str = ""
    inputs: tuple[Range, ...] = ()
    outputs: tuple[Range, ...] = ()
    rows: tuple[int, ...] = ()
    traceback: str = ""

    def where(self) -> str:
        """The place in words."""
        before = {"batch": "the batch's ", "weights": "the weights ", "backward": "the gradient of "}.get(
            self.phase, ""
        )
        return f"{before}'{self.operation}'{self.place}"


class Finder(TorchDispatchMode):
    """A context in which each operation of torch is looked at. Slow: it is for one step.

    Values that are not finite are followed from operation to operation, so that what is masked away before it reaches
    a loss (such as the -inf of an attention mask) is not blamed.

    Args:
        model: whose modules are called by their names.
        count: samples of the batch.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        self.names = {id(module): name for name, module in model.named_modules() if name}
        self.count = count
        self.origins: list[Origin] = []
        self.traces: dict[int, int] = {}  # where a tensor's memory lies -> the origin of what is wrong in it
        self.modules: list[str] = []
        self.hooks = ExitStack()

    def start_from(self, phase: Phase, tensors: Mapping[str, Tensor]) -> None:
        """Look at what is there before the step begins."""
        for name, tensor in tensors.items():
            if not is_finite(tensor):
                rows = self._rows(tensor) if phase == "batch" else ()
                self._add(Origin(phase, name, outputs=(Range.of(tensor),), rows=rows), [tensor])

    def origin_of(self, tensors: Iterable[Tensor]) -> Origin | None:
        """The origin of what is wrong in the first of these tensors that is not finite."""
        wrong = next((tensor for tensor in tensors if not is_finite(tensor)), None)
        number = None if wrong is None else self.traces.get(_place(wrong))
        return None if number is None else self.origins[number]

    def __enter__(self) -> "Finder":
        self.hooks.callback(global_hooks.register_module_forward_pre_hook(self._enters).remove)
        self.hooks.callback(global_hooks.register_module_forward_hook(self._leaves).remove)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Anomaly Detection has been enabled")
            self.hooks.enter_context(torch.autograd.detect_anomaly(check_nan=False))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.hooks.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, (Tensor, float, int))]
        # Before the call: what works in place overwrites what it took.
        wrong = [leaf for leaf in taken if isinstance(leaf, Tensor) and not is_finite(leaf)]
        number = max((self.traces.get(_place(tensor), -1) for tensor in wrong), default=-1)
        ranges = () if wrong else tuple(Range.of(leaf) for leaf in taken if not isinstance(leaf, bool))
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in UNSET:
            return result
        given = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        bad = [tensor for tensor in given if not is_finite(tensor)]
        for tensor in given:
            self.traces.pop(_place(tensor), None)
        if bad and not wrong:
            self._add(self._origin(name, ranges, bad), bad)
        elif bad and number >= 0:  # it goes through one more operation, which may tell whose it is
            self.traces.update({_place(tensor): number for tensor in bad})
            self.origins[number].rows = self.origins[number].rows or self._rows(bad[0])
        return result

    def _add(self, origin: Origin, tensors: Sequence[Tensor]) -> None:
        self.origins.append(origin)
        self.traces.update({_place(tensor): len(self.origins) - 1 for tensor in tensors})

    def _origin(self, name: str, inputs: tuple[Range, ...], bad: Sequence[Tensor]) -> Origin:
        node = torch._C._current_autograd_node()
        phase: Phase = "forward" if node is None else "backward"
        if node is None:
            module, frames = self.modules[-1] if self.modules else "", traceback.format_stack()
        else:
            module, frames = notes(node).get(MODULE, ""), notes(node).get(TRACEBACK) or []
            # `SqrtBackward0` is the gradient of `sqrt`.
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.sub(r"Backward\d*$", "", node.name())).lower()
        places = [""]
        for file, number, text in FRAME.findall("".join(frames)):
            if not file.startswith(HERE):
                places.append(f" ({_short(Path(file))}:{number}: `{text}`)")
        place, outputs = (f" in {module}" if module else "") + places[-1], tuple(map(Range.of, bad))
        return Origin(phase, name, place, inputs, outputs, self._rows(bad[0]), "".join(frames))

    def _rows(self, tensor: Tensor) -> tuple[int, ...]:
        rows = broken_rows([tensor], self.count)
        return tuple(rows) if len(rows) < self.count else ()  # all of them say nothing

    def _enters(self, module: nn.Module, args: Any) -> None:
        self.modules.append(self.names.get(id(module), type(module).__name__))

    def _leaves(self, module: nn.Module, args: Any, output: Any) -> None:
        """Write the module's name to the nodes of the graph that no module inside it has claimed."""
        name = self.modules.pop() if self.modules else ""
        seen = {None, *(leaf.grad_fn for leaf in tree_leaves(args) if isinstance(leaf, Tensor))}
        waiting = [leaf.grad_fn for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                notes(node).setdefault(MODULE, name)
                waiting += [following for following, _ in node.next_functions]


def is_finite(tensor: Tensor) -> bool:
    """Whether every value is; what holds no floats always is."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def broken_rows(tensors: Iterable[Tensor], count: int) -> list[int]:
    """Positions in a batch of `count` samples whose values in some of these tensors are not finite."""
    wrong = torch.zeros(count, dtype=torch.bool)
    for value in tensors:
        if value.ndim and len(value) == count and value.is_floating_point():
            wrong |= ~torch.isfinite(value.detach()).reshape(count, -1).all(dim=1).cpu()
    rows: list[int] = torch.nonzero(wrong).flatten().tolist()
    return rows


def notes(node: Node) -> dict[str, Any]:
    """What may be written to a node of the graph; torch declares it as a method, and it is none."""
    return cast("dict[str, Any]", node.metadata)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _short(file: Path) -> str:
    """A file as its package would be imported."""
    roots = [root for root in sys.path if root and file.is_relative_to(root)]
    return file.relative_to(max(roots, key=len)).as_posix() if roots else file.name
