"""What goes wrong, said in one line: what, where, and what to do."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

LAUNCHED = "PIPELINE_LAUNCHED"  # in the environment of the processes that `toolkit.launch` has started
OTHERS_FAILED = 3
# What torch, numpy and the system say -> what it means and what to do; the first that fits counts. The code has no
# part in it, so a traceback would help nobody.
FAILURES = {
    r"OutOfMemoryError|(CUDA|MPS backend|CUDA error:) out of memory|ALLOC_FAILED": (
        "the GPU has too little memory; lower training.batch_size (and raise training.accumulate) or image.size, "
        "set model.grad_checkpointing=true, or, where it only predicts, lower machine.valid_batch_size "
        "(scripts/predict.py: --batch-size)"
    ),
    r"items of ancdata|Too many open files|Errno 24\b": (
        "too many files are open at once; raise the limit (ulimit -n 65536), or lower machine.workers"
    ),
    r"shared memory ?\(shm\)|shared memory (object|file)|out of shared memory|[Bb]us error": (
        "/dev/shm is too small for the batches of the loader's processes; enlarge it (docker run --shm-size=8g), "
        "or set machine.workers=0"
    ),
    r"DataLoader worker \(pid.*(killed|exited)": (
        "a process of the loader was killed or has ended, mostly for want of memory; lower machine.workers, or "
        "free memory"
    ),
    r"Expected more than 1 (value per channel|spatial element)": (
        "a norm layer cannot train on one value: a device's batch is a single row, its features a single pixel; "
        "raise training.batch_size to 2 or more for each device, or enlarge image.size"
    ),
    r"no kernel image|not compiled for this|no kernels for": (
        "the installed torch has no kernels for this GPU; install one that has, or set machine.device=cpu"
    ),
    r"device-side assert": (
        "a value is out of its range on the GPU, mostly the number of a class; machine.device=cpu shows which and where"
    ),
    r"CUDA error|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS": (
        "the GPU failed; if it does so again, see what machine.device=cpu says, or whether another program uses it"
    ),
    r"Resource temporarily unavailable|can't start new thread": (
        "the system lets no further process or thread start; lower machine.workers, or raise the limit (ulimit -u)"
    ),
    r"MemoryError|DefaultCPUAllocator|[Cc]annot allocate memory|Unable to allocate .*array|Insufficient memory": (
        "the machine has too little memory; lower machine.workers, training.batch_size or image.size, or free memory"
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
    """Another of the processes that train together has ended, and says why itself."""


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
    if meaning is None:
        return None
    # What comes from another process begins with its traceback.
    reason = lines[-1] if "Traceback" in text else lines[0]
    return f"{meaning} ({reason[:160].rstrip('. ')})" if reason else meaning


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
    try:
        main()
        status = 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        status = 130
    except OthersFailed as error:
        if LAUNCHED not in os.environ:  # or else the launcher prints what the other one said
            print(f"error: {error}", file=sys.stderr)
        status = OTHERS_FAILED
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "pipeline", "competition", "_project"):
            raise
        print(f"error: the package '{error.name}' is not installed here; run make setup", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last saved state", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # `... | head`: nobody listens any more, which is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        meaning = known_failure(error)
        if meaning is None:
            raise
        print(f"error: {meaning}", file=sys.stderr)
        status = 2
    sys.exit(status)
