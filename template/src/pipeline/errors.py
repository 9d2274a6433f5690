"""What goes wrong, said in one line: what, where, and what to do."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

LAUNCHED = "PIPELINE_LAUNCHED"  # in the environment of the processes that `pipeline.launch` has started
OTHERS_FAILED = 3


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
    sys.exit(status)
