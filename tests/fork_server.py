"""Runs scripts of rendered projects, each in forked processes, and kills all but the last. One for a test session.

Reads a job per line from standard input (JSON: project, seed, kills, processes, arguments, out) and answers with its
exit status; what the processes say goes to the file `out`. With several processes they train together, as torchrun
would start them.

Forking from a process that has imported everything (and computed nothing, so that no thread pool exists yet) saves
thirteen seconds a start, which is what makes many kills affordable. A kill comes at a random moment after the run has
moved on: the newest state file has changed since the start.
"""

import contextlib
import json
import os
import random
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations  # noqa: F401
import catalyst.dl  # noqa: F401
import fastai.learner  # noqa: F401
import ignite.engine  # noqa: F401
import lightning  # noqa: F401
import matplotlib.figure  # noqa: F401
import pandas  # noqa: F401
import timm  # noqa: F401
import torch

ENDED_EARLY, FAILED = 3, 4


def main(prepare: Callable[[dict[str, Any]], None] = lambda job: None) -> None:
    """Answer jobs; `prepare` is called with one in the process that runs it, before its script."""
    for line in sys.stdin:
        job = json.loads(line)
        try:
            status = run(job, prepare)
        except Exception:
            status = FAILED  # of this job; the next one has a test of its own
            with Path(job["out"]).open("a") as said:
                traceback.print_exc(file=said)
        print(status, flush=True)


def run(job: dict[str, Any], prepare: Callable[[dict[str, Any]], None]) -> int:
    """The exit status of the last start, or `ENDED_EARLY` when one ended before its kill."""
    rng, done = random.Random(job["seed"]), 0
    while True:
        children = _start(job, prepare)
        if done == job["kills"]:
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            return max(codes, key=abs)
        if not _kill_later(children, Path(job["project"]), rng):
            return ENDED_EARLY
        done += 1


def _start(job: dict[str, Any], prepare: Callable[[dict[str, Any]], None]) -> list[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children = []
    for rank in range(job["processes"]):
        child = os.fork()
        if child == 0:
            if job["processes"] > 1:
                size = str(job["processes"])
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            try:
                os._exit(_run(job, prepare))
            finally:
                os._exit(FAILED)
        children.append(child)
    return children


def _run(job: dict[str, Any], prepare: Callable[[dict[str, Any]], None]) -> int:
    project, arguments = Path(job["project"]), job["arguments"]
    os.setpgid(0, 0)  # so that loader processes die with it
    said = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    torch.set_num_threads(1)
    os.chdir(project)
    path = project / "scripts" / arguments[0]
    sys.argv = [str(path), *arguments[1:]]
    sys.path.insert(0, str(path.parent))
    try:
        prepare(job)
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _kill_later(children: list[int], project: Path, rng: random.Random) -> bool:
    """Kill the children once they have saved something, a random moment later. False when they ended before."""
    before, deadline = _newest(project), time.monotonic() + 120
    main = children[0]
    while _newest(project) <= before:
        if os.waitpid(main, os.WNOHANG)[0] or time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.2))
    if os.waitpid(main, os.WNOHANG)[0]:
        return False
    for child in children:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return True


def _newest(project: Path) -> int:
    newest = 0
    # A file may be replaced this very moment, and a folder that is being looked through set aside.
    with contextlib.suppress(FileNotFoundError):
        for path in project.glob("runs/*/fold_*/checkpoints/state.pt"):
            newest = max(newest, path.stat().st_mtime_ns)
    return newest


if __name__ == "__main__":
    main()
