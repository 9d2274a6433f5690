"""Where the first value came from that is not finite, of all that reached a loss or a gradient of one training step."""

import linecache
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import walk_stack
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules import module as global_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MODULE = "module"  # where a node of the graph keeps the name of the module that made it
TRACEBACK = "traceback_"  # where anomaly detection keeps the lines that made it
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
UNSET = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")  # memory that nobody has written
HERE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


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
    def of(cls, tensor: Tensor) -> "Range":
        values = tensor.detach().double().flatten()
        finite = values[torch.isfinite(values)]
        low, high, smallest = (
            (float(finite.min()), float(finite.max()), float(finite.abs().min())) if len(finite) else (torch.nan,) * 3
        )
        nans, infs = int(torch.isnan(values).sum()), int(torch.isinf(values).sum())
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), low, high, smallest, nans, infs)


@dataclass(frozen=True)
class Origin:
    """The operation or tensor that gave the first value that is not finite.

    Attributes:
        phase: `forward`, `backward`, or what held the value before the step began: `batch`, `weights`.
        operation: of torch, such as `log`; in the backward pass the one that is differentiated, such as `sqrt`; the key
            or the name of the parameter otherwise.
        module: the innermost module that ran it, by its name in the model or its class; empty outside of any.
        line: `file:line` of the innermost line outside of torch, and `code` what stands there.
        inputs, outputs: what it took and gave; numbers count as tensors without dimension.
        rows: positions in the batch of what is not finite; empty where that cannot be told.
    """

    phase: Literal["batch", "weights", "forward", "backward"]
    operation: str
    module: str = ""
    line: str = ""
    code: str = ""
    inputs: tuple[Range, ...] = ()
    outputs: tuple[Range, ...] = ()
    rows: tuple[int, ...] = ()
    traceback: str = field(default="", compare=False)


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

    def start_from(self, phase: Literal["batch", "weights"], tensors: Mapping[str, Tensor]) -> None:
        """Look at what is there before the step begins."""
        for name, tensor in tensors.items():
            if not is_finite(tensor):
                rows = _rows(tensor, self.count) if phase == "batch" else ()
                self._add(Origin(phase, name, outputs=(Range.of(tensor),), rows=rows), [tensor])

    def origin_of(self, tensors: Sequence[Tensor]) -> Origin | None:
        """The origin of what is wrong in the first of these tensors that is not finite."""
        for tensor in tensors:
            if not is_finite(tensor):
                number = self.traces.get(_place(tensor))
                return self.origins[number] if number is not None else None
        return None

    def __enter__(self) -> "Finder":
        before = global_hooks.register_module_forward_pre_hook(self._enters)
        after = global_hooks.register_module_forward_hook(self._leaves)
        for hook in (before, after):
            self.hooks.callback(hook.remove)
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
        tensors = [leaf for leaf in taken if isinstance(leaf, Tensor)]
        # Before the call: what works in place overwrites what it took.
        wrong = [self.traces.get(_place(tensor), -1) for tensor in tensors if not is_finite(tensor)]
        ranges = None if wrong else tuple(_range(leaf) for leaf in taken if not isinstance(leaf, bool))
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in UNSET:
            return result
        given = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        bad = [tensor for tensor in given if not is_finite(tensor)]
        for tensor in given:
            self.traces.pop(_place(tensor), None)
        if bad and ranges is not None:
            self._add(self._origin(name, ranges, bad), bad)
        elif bad:
            self._follow(max(wrong), bad)
        return result

    def _follow(self, number: int, bad: Sequence[Tensor]) -> None:
        """What was wrong before has gone through one more operation, which may tell whose it is."""
        if number >= 0:
            self.traces.update({_place(tensor): number for tensor in bad})
            if not self.origins[number].rows:
                self.origins[number] = replace(self.origins[number], rows=_rows(bad[0], self.count))

    def _add(self, origin: Origin, tensors: Sequence[Tensor]) -> None:
        self.origins.append(origin)
        self.traces.update({_place(tensor): len(self.origins) - 1 for tensor in tensors})

    def _origin(self, name: str, inputs: tuple[Range, ...], bad: Sequence[Tensor]) -> Origin:
        outputs = tuple(Range.of(tensor) for tensor in bad)
        rows = _rows(bad[0], self.count)
        node = torch._C._current_autograd_node()
        if node is None:
            frames = [(frame.f_code.co_filename, line) for frame, line in walk_stack(sys._getframe())][::-1]
            line, code = _shown(frames)
            module = self.modules[-1] if self.modules else ""
            return Origin("forward", name, module, line, code, inputs, outputs, rows, _written(frames))
        made = "".join(notes(node).get(TRACEBACK) or ())
        line, code = _shown([(match["file"], int(match["line"])) for match in FRAME.finditer(made)])
        module = str(notes(node).get(MODULE, ""))
        return Origin("backward", _differentiated(node), module, line, code, inputs, outputs, rows, made)

    def _enters(self, module: nn.Module, args: Any) -> None:
        self.modules.append(self.names.get(id(module), type(module).__name__))

    def _leaves(self, module: nn.Module, args: Any, output: Any) -> None:
        name = self.modules.pop() if self.modules else ""
        before = {leaf.grad_fn for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for node in _made(output, before):
            notes(node)[MODULE] = name


def is_finite(tensor: Tensor) -> bool:
    """Whether every value is; what holds no floats always is."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def notes(node: Node) -> dict[str, Any]:
    """What may be written to a node of the graph; torch declares it as a method, and it is none."""
    found: dict[str, Any] = cast("dict[str, Any]", node.metadata)
    return found


def _made(output: Any, before: set[Node | None]) -> Iterator[Node]:
    """The nodes of the graph between what a module took and gave that no module inside it has claimed."""
    waiting = [leaf.grad_fn for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    seen = set(before)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if MODULE not in notes(node):
            yield node
        waiting += [following for following, _ in node.next_functions]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _range(leaf: Tensor | float) -> Range:
    return Range.of(leaf if isinstance(leaf, Tensor) else torch.tensor(leaf))


def _rows(tensor: Tensor, count: int) -> tuple[int, ...]:
    if tensor.ndim == 0 or len(tensor) != count or count == 1:
        return ()
    wrong = ~torch.isfinite(tensor.detach()).reshape(count, -1).all(dim=1)
    rows = tuple(torch.nonzero(wrong).flatten().tolist())
    return rows if len(rows) < count else ()


def _shown(frames: Sequence[tuple[str, int]]) -> tuple[str, str]:
    """The innermost line outside of torch, and what stands there."""
    for file, number in reversed(frames):
        if not file.startswith((*HERE, "<")):
            return f"{_short(file)}:{number}", linecache.getline(file, number).strip()
    return "", ""


def _short(file: str) -> str:
    """A file as its package would be imported."""
    path = Path(file)
    for root in sorted(sys.path, key=len, reverse=True):
        if root and path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.name


def _written(frames: Sequence[tuple[str, int]]) -> str:
    return "\n".join(
        f'  File "{file}", line {number}\n    {linecache.getline(file, number).strip()}' for file, number in frames
    )


def _differentiated(node: Node) -> str:
    """`SqrtBackward0` is the gradient of `sqrt`."""
    name = re.sub(r"Backward\d*$", "", node.name())
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
