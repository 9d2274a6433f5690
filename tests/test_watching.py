"""Watching changes no bit of a training; a tracker of one's own is one small file."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from projects import ROOT, Renders, run_script
from training import demo_project, expect

pytestmark = pytest.mark.slow

SEEN = ["machine.workers=0", "watch.gradient_steps=1", "watch.figure_epochs=1", "--fold", "0"]


@pytest.fixture(scope="module")
def project(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_project(renders, tmp_path_factory.mktemp("watched") / "project")


def test_all_callbacks_and_none_give_the_same_bits(project: Path, tmp_path: Path) -> None:
    expect(run_script(project, "train.py", "small", *SEEN))
    blind = Path(shutil.copytree(project, tmp_path / "blind", ignore=shutil.ignore_patterns("runs")))
    module = blind / "src/pipeline/callbacks/default.py"
    code, count = re.subn(r"\n    return \[\*numbers, .*\]\n", "\n    return []\n", module.read_text())
    assert count == 1
    module.write_text(code)
    expect(run_script(blind, "train.py", "small", *SEEN))
    folders = [root / "runs/small/fold_0" for root in (project, blind)]
    watched, unwatched = (load_file(folder / "best.safetensors") for folder in folders)
    assert {name: value.numpy().tobytes() for name, value in watched.items()} == {
        name: value.numpy().tobytes() for name, value in unwatched.items()
    }
    pd.testing.assert_frame_equal(*(pd.read_parquet(folder / "oof.parquet") for folder in folders), check_exact=True)
    assert (folders[0] / "figures/grad_cam/worst.png").is_file()
    assert not (folders[1] / "figures").exists()


def test_the_tracker_of_the_page(project: Path) -> None:
    page = (ROOT / "docs/add-a-tracker.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n# (?:src/pipeline/trackers/jsonl\.py)\n(.*?)```", page, flags=re.DOTALL)
    package = project / "src/pipeline/trackers/jsonl.py"
    package.write_text(code)
    settings = project / "competition.yaml"
    before = settings.read_text()
    settings.write_text(re.sub(r"trackers: .*", "trackers: [jsonl]", before))
    try:
        expect(run_script(project, "train.py", "small", "training.epochs=1", *SEEN, "--as", "lines"))
        expect(run_script(project, "train.py", "lines", "--fold", "full"))
    finally:
        settings.write_text(before)
    folder = project / "runs/lines/fold_0"
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["succeeded"]
    tags = {tag for row in rows for tag in row} - {"step", "figure", "summary", "succeeded"}
    local = {column for name in ("metrics.csv", "gradients.csv") for column in pd.read_csv(folder / name)} - {"step"}
    assert tags == local, "the same names everywhere"
    assert {row["figure"] for row in rows if "figure" in row} >= {"gradients", "learning_curves", "grad_cam/worst"}
    for fold in ("fold_0", "fold_full"):  # with rows held out, and with none
        lines = (project / f"runs/lines/{fold}/log.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(steps), "a tracker may drop what goes back"
