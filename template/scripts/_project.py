"""Puts this repository's `src` first on the path: rendered repositories are not installed, so two can share one
environment without importing each other's packages."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))


def parser(description: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser with `--data`, and examples below its help."""
    made = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", metavar="DIR", help="the data folder (default: data/raw, or DATA_DIR)")
    return made
