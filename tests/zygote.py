"""Runs a rendered project's script several times, each in forked processes, and kills all but the last.

Usage: zygote.py PROJECT SEED KILLS PROCESSES SCRIPT ARG...

With several processes they train together, as torchrun would start them.

Forking from a process that has imported everything (and computed nothing, so that no thread pool exists yet) saves
thirteen seconds a start, which is what makes many kills affordable. A kill comes at a random moment after the run has
moved on: the newest state file has changed since the start.
"""

import os
import random
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

import albumentations  # noqa: F401
import catalyst.dl  # noqa: F401
import fastai.learner  # noqa: F401
import ignite.engine  # noqa: F401
import lightning  # noqa: F401
import matplotlib.figure  # noqa: F401
import pandas  # noqa: F401
import timm  # noqa: F401
import torch


def main() -> None:
    project, seed, kills, processes, script, *arguments = sys.argv[1:]
    rng = random.Random(int(seed))
    done = 0
    while True:
        children = _start(Path(project), int(processes), script, arguments)
        if done == int(kills):
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            print(f"killed {done} times")
            sys.exit(max(codes, key=abs))
        if _kill_later(children, Path(project), rng):
            done += 1
        else:
            print(f"the run ended after {done} kills")
            sys.exit(3)


def _start(project: Path, processes: int, script: str, arguments: list[str]) -> list[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            if processes > 1:
                size = str(processes)
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            _run(project, script, arguments)
        children.append(child)
    return children


def _run(project: Path, script: str, arguments: list[str]) -> None:
    os.setpgid(0, 0)  # so that loader processes die with it
    torch.set_num_threads(1)
    os.chdir(project)
    path = project / "scripts" / script
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _kill_later(children: list[int], project: Path, rng: random.Random) -> bool:
    """Kill the children once they have saved something, a random moment later. False when they ended before."""
    before, deadline = _newest(project), time.monotonic() + 120
    main = children[0]
    while _newest(project) <= before:
        if os.waitpid(main, os.WNOHANG)[0] or time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.4))
    if os.waitpid(main, os.WNOHANG)[0]:
        return False
    for child in children:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return True


def _newest(project: Path) -> int:
    times = []
    for path in project.glob("runs/*/fold_*/checkpoints/state.pt"):
        try:
            times.append(path.stat().st_mtime_ns)
        except FileNotFoundError:  # replaced this very moment
            continue
    return max(times, default=0)


if __name__ == "__main__":
    main()
