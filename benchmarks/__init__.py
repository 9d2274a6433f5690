"""How fast the template is beside its peers: `python -m benchmarks`.

Every number is taken in one process and one run, ours and its peer in turns, so that what else the machine does
touches both alike.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # `projects` renders and imports projects; the tests use the same one
