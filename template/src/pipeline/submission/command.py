"""What `scripts/submit.py` does: build, check and write a submission, or check a file made elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from pipeline.competition import Competition, Metric
from pipeline.data.folds import class_order
from pipeline.data.labels import labels_of
from pipeline.inference.predict import FOLDS, HELD_OUT, TEST, read_predictions
from pipeline.inference.snapshot import CLASSES, CODE, run_competition
from pipeline.inference.thresholds import task_of_run
from pipeline.keys import ROW_ID, ROW_IMAGE
from pipeline.prediction_ids import by_prediction
from pipeline.project import Project
from pipeline.submission.build import SUBMITTED, expected_rows, fill, read_sample, require_keys, write_submission
from pipeline.submission.check import UNREADABLE, check
from pipeline.submission_schema import Problem, Rules
from pipeline.tasks import Task, task_for
from toolkit import terminal
from toolkit.errors import UserError, listed
from toolkit.files import read_json, write_json

CHECKS = {  # what the table of checks shows, and which problems belong to it
    "file": ("file", UNREADABLE),
    "columns": ("columns",),
    "ids": ("ids", "order"),
    "values": ("blank", "dtype", "finite", "range", "label", "sum", "mask"),
}
MOST_SHARES = 10  # classes whose shares are shown
Answers = Callable[[Competition, Path], pd.DataFrame | None]  # (competition, data) -> the test rows with their truth


def submit(project: Project, name: str, answers: Answers = lambda competition, data: None) -> Path:
    """Build the submission of an experiment from its test predictions, check it, and write `submissions/<name>.csv`.

    What formed the weights comes from the run's snapshot, all else is today's (`run_competition`).

    Args:
        answers: gives the truth of the test rows where it is known, which scores the submission.

    Raises:
        UserError: no data, no run, no predictions, or a submission that does not pass (nothing is written).
    """
    data, run = project.require_data(), project.require_run(name)
    if not (run / TEST).is_file():
        raise UserError(f"there are no test predictions of '{name}'; run scripts/predict.py {name} first")
    predictions = read_predictions(run / TEST)
    with run_competition(run) as competition:
        task = task_of_run(run, competition)
        competition = task.competition
        settings = competition.settings
        sample, test_rows = read_sample(settings, data), by_prediction(competition.test_rows(data))
        metric = competition.metrics()[0]
        table = competition.submission(sample, predictions, task.heads)
        rules = task.submission.rules(sample, metric, _images(test_rows, data))
        require_keys(sample, rules.keys, settings.sample_submission)
        filled = fill(sample, table, test_rows, rules.keys)
        problems = check(filled, expected_rows(sample, test_rows, rules.keys), rules)
        _print_checks(f"submission of '{name}'", rules, problems, f"{len(filled)} rows")
        _refuse(problems, f"the submission of '{name}' is not written")
        path = write_submission(project, name, filled)
        _print_shares(run, predictions, task)
        known = answers(competition, data)
        score = (
            None if known is None else _score(task.predictions.truth(known), task, metric, rules, filled, predictions)
        )
    folds = predictions.attrs.get(FOLDS, [])
    made = {"file": project.shown(path), "rows": len(filled), "metric": metric.name, FOLDS: folds}
    if folds and folds != ["full"] and len(folds) < (count := read_json(run / "run.json")["n_folds"]):
        print(f"note: these are the predictions of fold {', '.join(folds)} alone, of {count}")
    write_json(run / SUBMITTED, made if score is None else {**made, "score": score})
    if test_rows.empty and filled.empty:
        print(f"there are no test rows in {project.shown(data)}, so the file holds the columns only")
    if score is not None:
        print(f"the demo's leaderboard: {metric.name} {score:.4f}")
    print(f"submission: {project.shown(path)} ({len(filled)} rows)")
    return path


def check_file(project: Project, name: str | None, path: Path, competition: Competition) -> None:
    """Check any csv against the sample and print what is wrong with it.

    The classes come from the run `name` where there is one, else from `folds/classes.json`; without either, the
    sample's own values say what is expected.

    Raises:
        UserError: there is no data, no such file, or the file does not pass.
    """
    data = project.require_data()
    with _task(project, name, competition) as task:
        stage = task.competition
        settings = stage.settings
        sample = read_sample(settings, data)
        test_rows = by_prediction(stage.test_rows(data))
        rules = task.submission.rules(sample, stage.metrics()[0], _images(test_rows, data))
        require_keys(sample, rules.keys, settings.sample_submission)
        expected = expected_rows(sample, test_rows, rules.keys)
        problems = check(path, expected, rules)
    _print_checks(f"check of {path}", rules, problems, f"{len(expected)} rows expected")
    _refuse(problems, f"{path} would be refused")
    print(f"{path} passes")


def _images(test_rows: pd.DataFrame, data: Path) -> dict[str, Path]:
    """The image of each test id."""
    return {name: data / path for name, path in zip(test_rows[ROW_ID].astype(str), test_rows[ROW_IMAGE], strict=True)}


@contextmanager
def _task(project: Project, name: str | None, competition: Competition) -> Iterator[Task]:
    """The task of the run; without a run, of the competition as it is."""
    run, classes = project.run(name) if name else None, project.folds / CLASSES
    if run is not None and (run / CODE / CLASSES).is_file():
        with run_competition(run) as trained:
            yield task_of_run(run, trained)
    elif classes.is_file():
        yield task_for(competition, competition.heads(read_json(classes)))
    else:  # a file can be checked before there are folds
        rows, labels = competition.train_rows(project.data), labels_of(competition)
        found = {column: class_order(labels.cells(rows, column).dropna()) for column in labels.named}
        yield task_for(competition, competition.heads(found))


def _score(
    truth: pd.DataFrame, task: Task, metric: Metric, rules: Rules, table: pd.DataFrame, predictions: pd.DataFrame
) -> float:
    """The score of a submission on the truth of its rows.

    What stands in the table is scored. Where it does not say what the metric needs (labels only, and the metric wants
    probabilities), the predictions it was made from are.
    """
    read = task.submission.read(table.set_index(rules.id_column), rules, metric)
    scored = predictions if read is None else read
    truth = truth[truth.index.isin(scored.index)]
    return float(metric.function(truth, scored.loc[truth.index], task.heads))


def _print_checks(title: str, rules: Rules, problems: Sequence[Problem], rows: str) -> None:
    held = listed(rules.described(), 3) or "as in the sample"
    notes = {"columns": held, "ids": rows}
    unread = any(problem.kind == UNREADABLE for problem in problems)
    lines = []
    for name, kinds in CHECKS.items():
        mine = [problem for problem in problems if problem.kind in kinds]
        serious = sum(not problem.warning for problem in mine)
        result = f"{serious} wrong" if serious else "warning" if mine else "not checked" if unread else "ok"
        lines.append((name, result, notes.get(name, "")))
    terminal.table(title, ("check", "result", ""), lines)
    for note in rules.notes():
        print(f"note: {note}")
    for problem in problems:
        print(f"{'warning, ' if problem.warning else ''}{problem}")


def _refuse(problems: Sequence[Problem], what: str) -> None:
    serious = [problem for problem in problems if not problem.warning]
    if serious:
        more = f" (and {len(serious) - 1} more, listed above)" if len(serious) > 1 else ""
        raise UserError(f"{what}: {serious[0]}{more}")


def _print_shares(run: Path, predictions: pd.DataFrame, task: Task) -> None:
    """How often each class is decided for, beside the out-of-fold rows: a shift shows at once."""
    if not (run / HELD_OUT).is_file() or predictions.empty:
        return
    held_out = task.submission.shares(read_predictions(run / HELD_OUT))
    for head, share in task.submission.shares(predictions).items():
        both = pd.DataFrame({"test": share, "oof": held_out[head]})
        furthest = (both["test"] - both["oof"]).abs().nlargest(MOST_SHARES).index
        which = f", the {MOST_SHARES} of {len(both)} that differ most" if len(both) > MOST_SHARES else ""
        rows = [(str(name), float(row["test"]), float(row["oof"])) for name, row in both.iterrows() if name in furthest]
        terminal.table(f"predictions of '{head}'{which}", ("", "submission", "out of fold"), rows)
