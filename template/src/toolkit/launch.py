"""One process for each device of this machine: the same command again, for `machine.devices`.

It imports nothing heavy. Across machines torchrun does this job; what it puts into the environment is the same.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO

from toolkit.errors import LAUNCHED, OTHERS_FAILED, UserError

GRACE = 5.0  # seconds that the others have to end by themselves once one has failed
INTERRUPTED = 130


def must_launch(devices: int) -> bool:
    """Whether this process has to start the ones that train. Those that it or torchrun started need not."""
    return devices > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1


def launch(devices: int) -> int:
    """Run this command in so many processes; returns the exit status of the one that failed, or 0.

    The main one has the terminal. The others are silent; if one of them fails alone, what it said is printed. If all
    have but lost each other (NCCL, the network), the first one's words are, and the status is that of any error.
    """
    port = free_port()
    errors = [tempfile.TemporaryFile() for _ in range(devices)]  # noqa: SIM115
    children = [_start(rank, devices, port, errors[rank]) for rank in range(devices)]

    def forward(number: int, _: object) -> None:
        for child in children:
            child.send_signal(number)

    # Ctrl-C reaches the children by itself: they save and leave, and this process waits for them.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, forward)
    codes, deadline = [child.poll() for child in children], float("inf")
    while None in codes and time.monotonic() < deadline:
        time.sleep(0.05)
        codes = [child.poll() for child in children]
        if any(codes) and INTERRUPTED not in codes:
            deadline = min(deadline, time.monotonic() + GRACE)
    for child in children:
        child.kill()
        child.wait()
    causes = [rank for rank, code in enumerate(codes) if code not in (None, 0, OTHERS_FAILED)]
    lost = [rank for rank, code in enumerate(codes) if code == OTHERS_FAILED]
    if not causes and lost:
        _print_words(errors[lost[0]])
        return 2
    if not causes:
        return 0
    status = codes[causes[0]] or 0
    if status < 0:
        raise UserError(
            f"process {causes[0] + 1} of {devices} was killed (signal {-status}), perhaps for want of memory; "
            "the same command goes on from the last saved state"
        )
    if causes[0] > 0:
        _print_words(errors[causes[0]])
    return status


def _print_words(file: IO[bytes]) -> None:
    file.seek(0)
    sys.stderr.write(file.read().decode(errors="replace"))


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _start(rank: int, devices: int, port: int, errors: IO[bytes]) -> "subprocess.Popen[bytes]":
    environment = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // devices)),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # DDP's advice on settings that are as they have to be
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        LAUNCHED: str(errors.fileno()),  # and standard input ends when this process does
    }
    return subprocess.Popen(
        [sys.executable, *sys.argv],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        stderr=None if rank == 0 else errors,
        pass_fds=[errors.fileno()],
    )
