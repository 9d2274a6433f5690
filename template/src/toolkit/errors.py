"""What goes wrong, said in one line: what, where, and what to do."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

# In the environment of the processes that `toolkit.launch` has started: the descriptor of what only it reads.
LAUNCHED = "PIPELINE_LAUNCHED"
OTHERS_FAILED = 3
# What torch, numpy and the system say -> what it means and what to do; the first that fits counts. The code has no
# part in it, so a traceback would help nobody.
GPU_MEMORY = r"OutOfMemoryError|(CUDA|MPS backend|CUDA error:) out of memory|ALLOC_FAILED"
FAILURES = {
    GPU_MEMORY: (
        "the GPU has too little memory; lower training.batch_size (and raise training.accumulate), image.size or "
        "machine.valid_batch_size (scripts/predict.py: --batch-size), or set model.grad_checkpointing=true"
    ),
    r"items of ancdata|Too many open files|Errno 24\b": (
        "too many files are open at once; raise the limit (ulimit -n 65536), or lower machine.workers"
    ),
    r"shared memory( ?\(shm\)| object| file)|out of shared memory|[Bb]us error": (
        "/dev/shm is too small for the batches of the loader's processes; enlarge it (docker run --shm-size=8g), "
        "or set machine.workers=0"
    ),
    r"Expected more than 1 (value per channel|spatial element)": (
        "a norm layer cannot train on a single row or pixel; raise training.batch_size to 2 or more for each device, "
        "or enlarge image.size"
    ),
    r"no kernel image|not compiled for this|no kernels for": (
        "the installed torch has no kernels for this GPU; install one that has, or set machine.device=cpu"
    ),
    r"CUDA error|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS": (
        "the GPU failed, or a value is out of its range, mostly the number of a class; machine.device=cpu shows which"
    ),
    r"MemoryError|DefaultCPUAllocator|[Cc]annot allocate memory|Unable to allocate .*array|Insufficient memory|"
    r"DataLoader worker \(pid.*(killed|exited)|Resource temporarily unavailable|can't start new thread": (
        "the machine has too little memory, killed a process for it, or lets none start; lower machine.workers, "
        "training.batch_size or image.size, free memory, or raise the limit (ulimit -u)"
    ),
    r"No space left on device|Disk quota exceeded|Read-only file system|file write failed": (
        "the disk is full, or may not be written; free space: what was saved before is untouched"
    ),
}


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and what to do."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, after the state was saved. The message says how to go on."""


class OthersFailed(Exception):
    """The processes that train together lost each other; mostly another one has ended, and says why itself."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, or the list of all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {listed(names, 12)}" if names else "none is known"


def listed(items: Iterable[object], most: int = 3) -> str:
    """`a, b, c and 4 more`: enough of a list to find the fault, short enough for one line."""
    texts = [str(item) for item in items]
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest > 0 else "")


def known_failure(error: BaseException) -> str | None:
    """What an error of torch, numpy or the system means and what to do, in one line; none for any other error."""
    kind = type(error)
    is_theirs = isinstance(error, RuntimeError | OSError | MemoryError | ValueError) or kind.__module__ == "cv2"
    if not is_theirs or kind.__name__.startswith("Dist"):  # the latter: another process has ended
        return None
    lines = str(error).strip().splitlines() or [""]
    text = "\n".join([f"{kind.__name__}: {lines[0]}", *lines[1:]])
    meaning = next((meaning for pattern, meaning in FAILURES.items() if re.search(pattern, text)), None)
    # What comes from another process begins with its traceback.
    reason = lines[-1 if "Traceback" in text else 0][:160].rstrip(". ")
    return f"{meaning} ({reason})" if meaning and reason else meaning


@contextmanager
def known_failures() -> Iterator[None]:
    """Inside, a failure that has nothing to do with the code is a `UserError` of one line."""
    try:
        yield
    except Exception as error:
        meaning = known_failure(error)
        if meaning is None:
            raise
        raise UserError(meaning) from error


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run a script's `main`: status 0 on success, 2 and one line for what the user can mend, 130 when interrupted, 3
    when another of several processes failed."""
    status, said = 0, ""
    try:
        with known_failures():
            main()
    except UserError as error:
        status, said = 2, f"error: {error}"
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "pipeline", "competition", "_project"):
            raise
        status, said = 2, f"error: the package '{error.name}' is not installed here; run make setup"
    except Interrupted as error:
        status, said = 130, f"interrupted: {error}"
    except KeyboardInterrupt:
        status, said = 130, "interrupted: the same command goes on from the last saved state"
    except OthersFailed as error:
        status, said = OTHERS_FAILED, f"error: {error}"
        if LAUNCHED in os.environ:  # which prints it only where no other process has more to say
            os.write(int(os.environ[LAUNCHED]), f"{said}\n".encode())
            said = ""
    except BrokenPipeError:  # `... | head`: nobody listens any more, which is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if said:
        print(said, file=sys.stderr)
    sys.exit(status)
