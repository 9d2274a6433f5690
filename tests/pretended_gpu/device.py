"""A pretended GPU, `fake:0`, on a machine without one: memory of the host, torch's CPU kernels, CUDA's rules about
devices and waits. It changes the process for good, so import it only in one of its own.

Forward and backward pass, optimisers, autocast, saving, pinned memory and events work; CUDA's own kernels and its speed
are not there. A tensor of the CPU does not mix with one of the device; one without dimensions may, as with CUDA.

`extension.counts()` gives how many copies to the host for which it waited, copies to the device, and values read there
have been so far; `extension.later()` copies into pinned memory that nobody waited for; `extension.memory()` the bytes
that are alive, and the most that were. `extension.listen(f)` calls f(kind, operation, bytes) at each; kind is `read`
(the host waits), `later` (it does not), `write` (it waits until the device has it), or `sent` (it does not).
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch.utils import cpp_extension

AS_CUDA = ("Event", "Stream", "stream", "current_stream", "default_stream", "synchronize", "empty_cache")
AS_CUDA += ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats", "mem_get_info")
MEMORY = 16 * 2**30  # bytes that it says to have
SOURCE = Path(__file__).with_name("device.cpp")
NAME = "pretended_gpu_extension"
CACHE = Path(os.environ.get("PRETENDED_GPU_CACHE", Path(tempfile.gettempdir()) / f"pretended_gpu_{os.getuid()}"))


def compiler() -> str | None:
    """The C++ compiler of this machine."""
    return shutil.which(os.environ.get("CXX", "c++"))


def built() -> Path:
    """The extension for the installed torch, compiled in about a minute where it is not there yet."""
    key = hashlib.sha256(f"{torch.__version__} {sys.version}".encode() + SOURCE.read_bytes()).hexdigest()[:16]
    target = CACHE / key / f"{NAME}.so"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{key}.lock"):
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            part = target.with_suffix(".part")
            subprocess.run(_command(part), check=True)
            part.rename(target)
    return target


def _command(target: Path) -> list[str]:
    found = compiler()
    if found is None:
        raise RuntimeError("there is no C++ compiler here; install one (apt-get install g++), or set CXX")
    includes = [*cpp_extension.include_paths(), sysconfig.get_paths()["include"]]
    options = ["-shared", "-fPIC", "-O0", "-w", "-std=c++20", f"-DTORCH_EXTENSION_NAME={NAME}"]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    libraries += ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    return [found, *options, *(f"-I{path}" for path in includes), str(SOURCE), *libraries, "-o", str(target)]


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location(NAME, built())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Stream(contextlib.nullcontext):  # type: ignore[type-arg]
    """A stream that has always done all that it was given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def wait_stream(self, stream: Any) -> None:
        pass

    wait_event = record_event = wait_stream

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class Event:
    """An event in a stream that has always done all that it was given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.recorded = 0.0

    def record(self, stream: Any = None) -> None:
        self.recorded = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    wait = record_stream = synchronize

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.recorded - self.recorded)


def _module() -> types.ModuleType:
    """What torch asks of a backend, as `torch.fake`."""
    module: Any = types.ModuleType("torch.fake")
    module.is_available = module.is_initialized = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.set_device = module._lazy_init = lambda *_: None
    module._is_in_bad_fork = lambda: False
    module.manual_seed = module.manual_seed_all = lambda _seed: None  # what is random is drawn on the CPU
    module.get_rng_state = lambda device=None: torch.get_rng_state()
    module.set_rng_state = lambda state, device=None: torch.set_rng_state(state)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    module.synchronize = lambda device=None: None
    module.device = module.stream = module.StreamContext = contextlib.nullcontext
    module.Stream, module.Event = Stream, Event
    module.current_stream = module.default_stream = lambda device=None: Stream()
    module.memory_allocated = lambda device=None: extension.memory()[0]
    module.max_memory_allocated = lambda device=None: extension.memory()[1]
    module.reset_peak_memory_stats = lambda device=None: extension.reset_peak()
    module.mem_get_info = lambda device=None: (MEMORY - extension.memory()[0], MEMORY)
    module.empty_cache = lambda: None
    return module


def _look_like_cuda(module: Any) -> None:
    """Let code that asks for CUDA's tensors, streams and events find these."""
    for name in AS_CUDA:
        setattr(torch.cuda, name, getattr(module, name))
    torch.Tensor.record_stream = lambda tensor, stream: None  # type: ignore[assignment]
    torch.Tensor.is_cuda = property(lambda tensor: tensor.device.type in ("cuda", "fake"))  # type: ignore[assignment]


torch.utils.rename_privateuse1_backend("fake")
extension = _loaded()
torch._register_device_module("fake", _module())
_look_like_cuda(torch.fake)  # type: ignore[attr-defined]
torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
DEVICE = torch.device("fake", 0)
