"""Puts this repository's `src` first on the path: rendered repositories are not installed, so two can share one
environment without importing each other's packages."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
