"""What happens before the first step: nobody is asked for a newer version, and loaders are at work early."""

import os
import subprocess
import sys

import pytest

from projects import Renders

LOOK_UP = """
import os, sys, urllib.request, warnings
warnings.simplefilter("ignore")
def asked(*_, **__):
    print("asked")
    raise OSError
urllib.request.OpenerDirector.open = asked
import {module}
assert "albumentations" in sys.modules
print(os.environ["NO_ALBUMENTATIONS_UPDATE"])  # which loader processes inherit
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pipeline.data.augment", "competition.augmentations"])
@pytest.mark.parametrize(("own", "said"), [(None, ["1"]), ("0", ["asked", "0"])])
def test_nobody_asks_for_a_newer_albumentations(
    module: str, own: str | None, said: list[str], renders: Renders
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    environment |= {"PYTHONPATH": str(renders.shared() / "src")} | (
        {} if own is None else {"NO_ALBUMENTATIONS_UPDATE": own}
    )
    command = [sys.executable, "-c", LOOK_UP.format(module=module)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == said
