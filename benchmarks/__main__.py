"""Measure, print the table, and write `build/benchmarks.json` and `build/benchmarks.txt`."""

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import ROOT
from benchmarks.measure import Effort, Row
from benchmarks.report import machine_facts, print_table, write_report
from benchmarks.workplace import Workplace, one_thread

EXAMPLES = """examples:
  python -m benchmarks                          everything, about five minutes on two quiet cores
  python -m benchmarks --only step              one group
  python -m benchmarks --quick                  few repetitions: shows that it works, not how fast it is
"""


def step(place: Workplace, effort: Effort) -> list[Row]:
    """Training steps of each engine over a bare PyTorch loop."""
    from benchmarks.engine_step import measure

    return measure(place, effort)


def images(place: Workplace, effort: Effort) -> list[Row]:
    """Images per second of the input pipeline over PIL and torchvision."""
    from benchmarks.input_pipeline import measure

    return measure(place, effort)


def collate(place: Workplace, effort: Effort) -> list[Row]:
    """Samples to a batch, over torch's default collate of float32."""
    from benchmarks.batching import measure

    return measure(place, effort)


def feed(place: Workplace, effort: Effort) -> list[Row]:
    """Training steps fed by the loader, over the same steps on one batch."""
    from benchmarks.feeding import measure

    return measure(place, effort)


def predict(place: Workplace, effort: Effort) -> list[Row]:
    """Prediction by several models on several views, over the naive loop."""
    from benchmarks.predicting import measure

    return measure(place, effort)


def gather(place: Workplace, effort: Effort) -> list[Row]:
    """What two processes exchange in a step beside gradients."""
    from benchmarks.gathering import measure

    return measure(place, effort)


def rle(place: Workplace, effort: Effort) -> list[Row]:
    """Run-length codes of masks over the usual NumPy form."""
    from benchmarks.rle import measure

    return measure(place, effort)


def watch(place: Workplace, effort: Effort) -> list[Row]:
    """A watched training over an unwatched one."""
    from benchmarks.watching import measure

    return measure(place, effort)


def gpu(place: Workplace, effort: Effort) -> list[Row]:
    """Training steps on a GPU over a bare loop's; without one, how often a step waits."""
    from benchmarks.gpu import measure

    return measure(place, effort)


def copy(place: Workplace, effort: Effort) -> list[Row]:
    """`copier copy` in process."""
    from benchmarks.rendering import measure

    return measure(place, effort)


# What needs torch is imported when it is measured: `--help` and `--only copy` do not wait for it.
GROUPS: dict[str, Callable[[Workplace, Effort], list[Row]]] = {
    "step": step,
    "images": images,
    "collate": collate,
    "feed": feed,
    "predict": predict,
    "gather": gather,
    "rle": rle,
    "watch": watch,
    "gpu": gpu,
    "copy": copy,
}


def run(groups: Sequence[str], quick: bool, output: Path, console: Console) -> list[Row]:
    """Measure the groups, print the table and write both files."""
    os.environ["WANDB_MODE"] = "offline"
    os.environ["MPLBACKEND"] = "agg"
    effort = Effort.quick() if quick else Effort()
    began = time.monotonic()
    rows: list[Row] = []
    # A tracker's process may still hold a file when the folder goes.
    with tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as folder, one_thread():
        place = Workplace(Path(folder))
        for name in groups:
            console.print(f"measuring: {GROUPS[name].__doc__}", highlight=False)
            gc.collect()
            rows += GROUPS[name](place, effort)
        facts = machine_facts(time.monotonic() - began, quick)
    print_table(rows, facts, console)
    write_report(rows, facts, output)
    console.print(f"written: {output / 'benchmarks.json'} and {output / 'benchmarks.txt'}", soft_wrap=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(GROUPS),
        metavar="NAME",
        help=f"measure this group only, can be given several times: {', '.join(GROUPS)}",
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--output", type=Path, default=ROOT / "build", metavar="DIR", help="default: build")
    chosen = parser.parse_args(arguments)
    run(chosen.only or list(GROUPS), chosen.quick, chosen.output, Console(highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
