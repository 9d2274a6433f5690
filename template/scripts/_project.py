"""Puts this repository's `src` first on the path: rendered repositories are not installed, so two can share one
environment without importing each other's packages."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser with `--data`, and with a script's docstring as its help: the examples in it come last."""
    description, heading, examples = (text or "").partition("examples:\n")
    made = argparse.ArgumentParser(
        description=description, epilog=heading + examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", metavar="DIR", help="the data folder (default: data/raw, or DATA_DIR)")
    return made
