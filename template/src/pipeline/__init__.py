"""The pipeline: dict in, dict out. It knows no competition; `src/competition` brings that."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or each import asks the network for a newer version, and warns
