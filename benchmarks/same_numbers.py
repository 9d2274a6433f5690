"""Whether a change of the template changes what a training comes to: two versions side by side, number by number.

For each kind of task, and for each framework, the demo is trained for two short epochs by both versions. The losses of
every step, the metrics of every epoch, the out-of-fold table and the submission are compared.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import copier
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks import ROOT
from projects import run_script

EXAMPLES = """examples:
  python -m benchmarks.same_numbers main~20              a commit, and the newest one
  python -m benchmarks.same_numbers v0.1.0 HEAD --only segmentation --only ignite
"""
TASKS = ("classification", "multilabel", "regression", "multitask", "metric_learning", "segmentation")
FRAMEWORKS = ("ignite", "fastai", "catalyst")  # each with the first task; the others are trained by Lightning
EXPERIMENT = """extends: demo
model: {{encoder: test_resnet{decoder}}}
training: {{epochs: 2, batch_size: 32}}
tracking: {{every_steps: 1}}
watch: {{figure_epochs: 0}}
machine: {{workers: 0, device: cpu}}
"""
DECODER = ", params: {decoder_channels: [16, 16, 16, 8, 8]}"


def walk(template: Path, reference: str, answers: dict[str, object], project: Path) -> None:
    """Render a version and walk the demo's fold 0 in it, to a submission.

    Raises:
        RuntimeError: a script failed; what it said is in the message.
    """
    copier.run_copy(str(template), project, data=answers, defaults=True, quiet=True, vcs_ref=reference)
    decoder = DECODER if answers["task"] == "segmentation" else ""
    (project / "experiments/same.yaml").write_text(EXPERIMENT.format(decoder=decoder))
    steps: Sequence[Sequence[str]] = (
        ("make_demo_data.py",),
        ("make_folds.py", "--no-leak-report"),
        ("train.py", "same", "--fold", "0"),
        ("predict.py", "same", "--fold", "0"),
        ("submit.py", "same"),
    )
    for script, *arguments in steps:
        done = run_script(project, script, *arguments)
        if done.status:
            raise RuntimeError(f"{reference}: {script} failed: {done.stdout}{done.stderr}")


def tables(project: Path) -> dict[str, pd.DataFrame]:
    """What the walk came to, without times."""
    run = project / "runs/same/fold_0"
    metrics = pd.read_csv(run / "metrics.csv")
    metrics = metrics[[name for name in metrics if not name.startswith(("time/", "memory/"))]]
    oof = pd.read_parquet(run / "oof.parquet").set_index("id").sort_index()
    return {"metrics": metrics, "out of fold": oof, "submission": pd.read_csv(project / "submissions/same.csv")}


def differences(before: dict[str, pd.DataFrame], after: dict[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """(table, what differs); `equal to the bit` where nothing does."""
    for name, old in before.items():
        new = after[name]
        if list(old.columns) != list(new.columns) or not old.index.equals(new.index):
            odd = sorted(set(old.columns) ^ set(new.columns))
            yield name, f"other rows or columns: {len(old)} and {len(new)} rows, {', '.join(map(str, odd[:5]))}"
        elif old.equals(new):
            yield name, "equal to the bit"
        else:
            unlike = [column for column in old if not old[column].equals(new[column])]
            numbers = [column for column in unlike if np.issubdtype(old[column].dtype, np.number)]
            far = max((float((old[column] - new[column]).abs().max()) for column in numbers), default=float("nan"))
            yield name, f"{len(unlike)} columns differ, by at most {far:.3g}: {', '.join(map(str, unlike[:5]))}"


def _commit(reference: str) -> str:
    """The full name of a commit, which a clone knows under no branch."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", f"{reference}^{{commit}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.same_numbers",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", help="a commit or tag of this repository")
    parser.add_argument("after", nargs="?", default="HEAD", help="another one (default: HEAD)")
    parser.add_argument(
        "--only", action="append", choices=[*TASKS, *FRAMEWORKS], metavar="NAME", help="a task or framework"
    )
    chosen = parser.parse_args(arguments)
    os.environ["WANDB_MODE"], os.environ["MPLBACKEND"] = "offline", "agg"
    before, after = (_commit(reference) for reference in (chosen.before, chosen.after))
    variants: dict[str, dict[str, object]] = {task: {"task": task} for task in TASKS}
    variants |= {framework: {"task": TASKS[0], "framework": framework} for framework in FRAMEWORKS}
    console, differ = Console(highlight=False), False
    clone = tempfile.TemporaryDirectory(prefix="template-")  # a working tree with edits would be taken along
    subprocess.run(["git", "clone", "--quiet", str(ROOT), clone.name], check=True)
    table = Table("variant", "table", "difference", title=f"{chosen.before} and {chosen.after}")
    for name, answers in variants.items():
        if chosen.only and name not in chosen.only:
            continue
        console.print(f"walking: {name}")
        with tempfile.TemporaryDirectory(prefix="same-") as folder:
            found = []
            for side, reference in (("before", before), ("after", after)):
                walk(Path(clone.name), reference, {**answers, "trackers": []}, Path(folder) / side)
                found.append(tables(Path(folder) / side))
            for which, what in differences(*found):
                table.add_row(name, which, what)
                differ |= what != "equal to the bit"
    console.print(table)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
