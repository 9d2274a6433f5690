"""One process for each device of this machine: the same command again, for `machine.devices`.

It imports nothing heavy. Across machines torchrun does this job; what it puts into the environment is the same.
"""

import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

from toolkit.errors import LAUNCHED, OTHERS_FAILED, UserError

GRACE = 5.0  # seconds that the others have to end by themselves once one has failed
INTERRUPTED = 130


def must_launch(devices: int) -> bool:
    """Whether this process has to start the ones that train. Those that it or torchrun started need not."""
    return devices > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1


def launch(devices: int) -> int:
    """Run this command in so many processes, and end when they do.

    The main one has the terminal. The others are silent; if one of them fails alone, what it said is printed.

    Returns:
        The exit status: that of the process that failed, 0 if none did.
    """
    port = free_port()
    errors = [tempfile.TemporaryFile() for _ in range(devices)]  # noqa: SIM115
    children = [_start(rank, devices, port, errors[rank]) for rank in range(devices)]
    # Ctrl-C reaches the children by itself: they save and leave, and this process waits for them.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, functools.partial(_forward_signal, children))
    status = _wait_for_failure(children)
    deadline = time.monotonic() + GRACE
    while any(child.poll() is None for child in children) and (status == INTERRUPTED or time.monotonic() < deadline):
        time.sleep(0.05)
    codes = [child.poll() for child in children]
    for child in children:
        child.kill()
        child.wait()
    causes = [rank for rank, code in enumerate(codes) if code not in (None, 0, OTHERS_FAILED)]
    if not causes:
        return status
    status = codes[causes[0]] or 0
    if status < 0:
        raise UserError(
            f"process {causes[0] + 1} of {devices} was killed (signal {-status}), perhaps for want of memory; "
            "the same command goes on from the last saved state"
        )
    if causes[0] > 0:
        errors[causes[0]].seek(0)
        sys.stderr.write(errors[causes[0]].read().decode(errors="replace"))
    return status


def _start(rank: int, devices: int, port: int, errors: IO[bytes]) -> "subprocess.Popen[bytes]":
    threads = str(max(1, (os.cpu_count() or 1) // devices))
    environment = {
        "OMP_NUM_THREADS": threads,
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # DDP's advice on settings that are as they have to be
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        LAUNCHED: "1",  # and standard input ends when this process does
    }
    is_main = rank == 0
    return subprocess.Popen(
        [sys.executable, *sys.argv],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=None if is_main else subprocess.DEVNULL,
        stderr=None if is_main else errors,
    )


def _forward_signal(children: "Sequence[subprocess.Popen[bytes]]", number: int, _frame: FrameType | None) -> None:
    for child in children:
        child.send_signal(number)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for_failure(children: "Sequence[subprocess.Popen[bytes]]") -> int:
    """The exit status of a process that has failed, as soon as one has; 0 once all have ended well."""
    while True:
        codes = [child.poll() for child in children]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            return failed[0] if failed else 0
        time.sleep(0.1)
