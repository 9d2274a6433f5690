"""Stages: a later one reads what an earlier one predicts, on the same folds or not at all."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from projects import run_script
from training import expect

GATE = {
    "__init__.py": "",
    "tables.py": '''"""The rows of the gate: is the digit even?"""

from competition.tables import test_rows, train_rows as digits

__all__ = ["test_rows", "train_rows"]


def train_rows(settings, data):
    rows = digits(settings.model_copy(update={"target_columns": ("label",)}), data)
    return rows.assign(even=rows["label"].astype(int).mod(2).map({0: "even", 1: "odd"}))
''',
    "targets.py": '''"""One head."""

from pipeline.competition import Head


def heads(settings, classes):
    return [Head("even", "multiclass", tuple(classes["even"]))]
''',
    "metric.py": "from competition.metric import metrics  # noqa: F401\n",
    "augmentations.py": "from competition.augmentations import augmentations  # noqa: F401\n",
    "submission.py": "from competition.submission import submission  # noqa: F401\n",
}
SETTINGS = ("model.encoder=test_resnet", "image.size=32", "training.epochs=2", "machine.workers=0")


@pytest.fixture
def staged(project: Path) -> Path:
    """The default project with an earlier stage, as its user would write it."""
    folder = project / "src/competition/gate"
    folder.mkdir()
    for name, text in GATE.items():
        (folder / name).write_text(text)
    init = project / "src/competition/__init__.py"
    stages = """    stages={
        "gate": Competition(
            read_settings(__file__).model_copy(update={"target_columns": ("even",)}), "competition.gate"
        )
    },
)
"""
    init.write_text(init.read_text().removesuffix(")\n") + stages)
    expect(run_script(project, "make_demo_data.py"))
    expect(run_script(project, "make_folds.py", "--n-folds", "2", "--no-leak-report"))
    return project


@pytest.mark.slow
def test_a_later_stage_reads_an_earlier_one(staged: Path) -> None:
    gate = ("demo", *SETTINGS, "stage=gate", "--as", "gate")
    expect(run_script(staged, "train.py", *gate, "--fold", "0"))
    later = ("demo", *SETTINGS, "inputs={gate: gate}", "--as", "later")
    refused = run_script(staged, "train.py", *later)
    assert refused.status == 2 and "'gate' has no oof.parquet yet; run scripts/evaluate.py gate" in refused.last_line
    expect(run_script(staged, "evaluate.py", "gate"))
    refused = run_script(staged, "train.py", *later)  # the rows of its other fold are not predicted yet
    assert "run scripts/train.py gate --fold 1, and then scripts/evaluate.py gate" in refused.last_line
    submission = staged / "src/competition/gate/submission.py"
    submission.write_text(submission.read_text() + "NOTHING = 0\n")
    expect(run_script(staged, "train.py", *gate))
    expect(run_script(staged, "evaluate.py", "gate"))
    said = pd.read_parquet(staged / "runs/gate/oof.parquet").set_index("id")
    assert set(said) == {"even:even", "even:odd"}
    expect(run_script(staged, "train.py", *later, "--fold", "0"))
    early = run_script(staged, "predict.py", "later", "--fold", "0")
    assert early.status == 2 and "'gate' has no test.parquet yet" in early.last_line
    tables = staged / "src/competition/gate/tables.py"
    tables.write_text(
        tables.read_text().replace("test_rows, train_rows as digits", "train_rows as digits")
        + "\n\ndef test_rows(settings, data):\n    from competition.tables import test_rows\n\n"
        "    return test_rows(settings, data)\n"
    )
    assert "test_rows in gate/tables.py is newer" in expect(run_script(staged, "predict.py", "gate")).stdout
    expect(run_script(staged, "predict.py", "later", "--fold", "0"))
    expect(run_script(staged, "submit.py", "later"))

    expect(run_script(staged, "make_folds.py", "--n-folds", "2", "--seed", "1", "--name", "other", "--no-leak-report"))
    leaking = run_script(staged, "train.py", *later[:-2], "folds=other", "--as", "leaking")
    assert leaking.status == 2 and "trained with other folds" in leaking.last_line
    record = staged / "runs/gate/run.json"
    record.write_text(record.read_text().replace('"n_folds": 2', '"n_folds": 1'))
    alone = run_script(staged, "train.py", *later)
    assert alone.status == 2 and "'gate' has one validation split only" in alone.last_line
    shutil.rmtree(staged / "runs/gate")
    gone = run_script(staged, "evaluate.py", "later", "--fold", "0")
    assert gone.status == 2 and "gate" in gone.last_line


def test_an_unknown_stage_is_refused(staged: Path) -> None:
    refused = run_script(staged, "train.py", "demo", "stage=gaet")
    assert refused.status == 2 and "no stage 'gaet'; did you mean 'gate'?" in refused.last_line
