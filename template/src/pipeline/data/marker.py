"""How demo data is told from real data: a hidden file beside it that knows what was written."""

import json
from pathlib import Path

from toolkit.files import digest

DEMO_MARKER = ".demo"  # beside demo data, and only there


def demo_files(data: Path) -> dict[str, str]:
    """What the demo generator wrote below `data`: path -> fingerprint; empty where there is no demo."""
    try:
        return dict(json.loads((data / DEMO_MARKER).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def is_demo(data: Path) -> bool:
    """Whether the tables in `data` are the demo's; real ones unpacked over it are not, whatever marker is left."""
    tables = {path: value for path, value in demo_files(data).items() if path.endswith(".csv")}
    return bool(tables) and all(is_unchanged(data / path, value) for path, value in tables.items())


def is_unchanged(path: Path, fingerprint: str) -> bool:
    """Whether `path` still holds what the fingerprint was taken of."""
    return path.is_file() and digest(path.read_bytes()) == fingerprint
