"""Whole trainings on a pretended GPU: scripts of a rendered project run on it, each in a forked process of its own.

`ran` runs a script and gives what it said and which waits of the host it met. Where there is no C++ compiler,
importing this skips the tests of the file.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from projects import Result

if not shutil.which(os.environ.get("CXX", "c++")):
    pytest.skip("a pretended GPU is compiled, and there is no C++ compiler here", allow_module_level=True)


@dataclass(frozen=True)
class Wait:
    """A copy or read between two batches of a training stage."""

    kind: str  # read, later, write, sent: see device.py
    operation: str
    bytes: int
    step: int  # optimiser steps done before
    batch: int  # of the epoch
    place: str  # the innermost line of the project or its tests: file:line function

    def __str__(self) -> str:
        return f"step {self.step}: {self.operation} ({self.kind}, {self.bytes} bytes) at {self.place}"


@dataclass(frozen=True)
class Ran(Result):
    """What a script left behind, and the waits of its training steps."""

    waits: list[Wait]

    def blocking(self) -> list[Wait]:
        """Those for which the host stops."""
        return [wait for wait in self.waits if wait.kind in ("read", "write")]


def ran(project: Path, script: str, *args: str, kills: int = 0) -> Ran:
    """Run `scripts/<script>` with the pretended GPU as the one that `auto` and `cuda` choose. With `kills` it is killed
    so often, at random moments after it has saved something, and continued."""
    with tempfile.TemporaryDirectory() as folder:
        out, waits = Path(folder, "out"), Path(folder, "waits")
        out.touch()
        job = {"project": str(project), "seed": 7, "kills": kills, "processes": 1, "arguments": [script, *args]}
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        print(json.dumps({**job, "out": str(out), "waits": str(waits)}), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        assert answer, f"the server has ended\n{out.read_text()}"
        found = [Wait(*json.loads(line)) for line in waits.read_text().splitlines()] if waits.exists() else []
        said = out.read_text(errors="replace")
        return Ran(int(answer), said, said, found)


@functools.cache
def _server() -> "subprocess.Popen[str]":
    """The process that forks, one for all tests of a worker: it ends with its standard input."""
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    server = Path(__file__).with_name("server.py")
    return subprocess.Popen(
        [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
