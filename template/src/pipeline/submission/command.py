"""What `scripts/submit.py` does: build, check and write a submission, or check a file made elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from pipeline.competition import Competition, Metric
from pipeline.data.folds import class_order
from pipeline.data.labels import labels_of
from pipeline.inference.predict import FOLDS, HELD_OUT, TEST, expected_folds, read_predictions
from pipeline.inference.snapshot import CLASSES, CODE, run_competition
from pipeline.inference.thresholds import task_of_run
from pipeline.keys import ROW_ID, ROW_IMAGE
from pipeline.project import Project
from pipeline.rows import by_prediction
from pipeline.submission.build import SUBMITTED, expected_rows, fill, read_sample, write_submission
from pipeline.submission.check import UNREADABLE, check
from pipeline.submission_schema import Problem, Rules
from pipeline.tasks import Task, task_for
from toolkit import terminal
from toolkit.errors import UserError, listed
from toolkit.files import read_json, write_json

# What the table of checks shows beside the values -> the kinds of problems that belong to it.
CHECKS = {"file": ("file", UNREADABLE), "columns": ("columns",), "ids": ("ids", "order")}
MOST_SHARES = 10  # classes whose shares are printed
Answers = Callable[[Competition, Path], pd.DataFrame | None]  # (competition, data) -> the test rows with their truth


def submit(project: Project, name: str, answers: Answers = lambda competition, data: None) -> Path:
    """Build the submission of an experiment from its test predictions, check it, and write `submissions/<name>.csv`;
    `answers` know the truth of the test rows where that is possible, which scores it.

    Raises:
        UserError: no data, no run, no predictions, or a submission that does not pass (nothing is written).
    """
    data, run = project.require_data(), project.require_run(name)
    if not (run / TEST).is_file():
        raise UserError(f"there are no test predictions of '{name}'; run scripts/predict.py {name} first")
    predictions = read_predictions(run / TEST)
    with run_competition(run) as competition:
        task = task_of_run(run, competition)
        metric = task.competition.metrics()[0]
        sample, rules, expected = _form(task, data, predictions)
        filled = fill(expected, task.competition.submission(sample, predictions, task.heads), rules.keys)
        problems = check(filled, expected, rules)
        _report(f"submission of '{name}'", rules, problems, len(filled), f"the submission of '{name}' is not written")
        path = project.submissions / f"{name}.csv"
        write_submission(path, filled)
        _print_shares(run, predictions, task)
        known = answers(task.competition, data)
        score = None if known is None else _score(known, task, metric, rules, filled, predictions)
    folds = predictions.attrs.get(FOLDS, [])
    if folds and folds != ["full"] and len(folds) < (count := len(expected_folds(run))):
        print(f"note: these are the predictions of fold {', '.join(folds)} alone, of {count}")
    made = {"file": project.shown(path), "rows": len(filled), "metric": metric.name, FOLDS: folds}
    if filled.empty:
        print(f"there are no test rows in {project.shown(data)}, so the file holds the columns only")
    if score is not None:
        made["score"] = score
        print(f"the demo's leaderboard: {metric.name} {score:.4f}")
    write_json(run / SUBMITTED, made)
    print(f"submission: {project.shown(path)} ({len(filled)} rows)")
    return path


def check_file(project: Project, name: str | None, path: Path, competition: Competition) -> None:
    """Check any csv against the sample and print what is wrong with it; a `UserError` where it does not pass.

    The classes come from the run `name` where there is one, else from `folds/classes.json`, else from the data.
    """
    data = project.require_data()
    with _task(project, name, competition) as task:
        _, rules, expected = _form(task, data)
        problems = check(path, expected, rules)
    _report(f"check of {path}", rules, problems, len(expected), f"{path} would be refused")
    print(f"{path} passes")


def _form(task: Task, data: Path, predictions: pd.DataFrame | None = None) -> tuple[pd.DataFrame, Rules, pd.DataFrame]:
    """The sample, the rules it makes, and the rows that a submission must have; without test rows on this machine
    those of the predictions."""
    stage = task.competition
    sample, test_rows = read_sample(stage.settings, data), by_prediction(stage.test_rows(data))
    ids = test_rows[ROW_ID].astype(str)
    images = {name: data / path for name, path in zip(ids, test_rows[ROW_IMAGE], strict=True)}
    rules = task.submission.rules(sample, stage.metrics()[0], images)
    if ids.empty and predictions is not None:
        ids = predictions.index.to_series()
    return sample, rules, expected_rows(sample, ids, rules.keys)


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
    rows: pd.DataFrame, task: Task, metric: Metric, rules: Rules, table: pd.DataFrame, predictions: pd.DataFrame
) -> float:
    """The score of a submission on the truth of its rows; where it does not say what the metric needs (labels only,
    and the metric wants probabilities), that of the predictions it was made from."""
    read = task.submission.read(table.set_index(rules.id_column), rules, metric)
    scored, truth = predictions if read is None else read, task.predictions.truth(rows)
    truth = truth[truth.index.isin(scored.index)]
    return float(metric.function(truth, scored.loc[truth.index], task.heads))


def _report(title: str, rules: Rules, problems: Sequence[Problem], rows: int, refusal: str) -> None:
    """Print what was checked and all that is wrong; a `UserError` where that is more than warnings."""
    notes = {"columns": listed(rules.described(), 3) or "as in the sample", "ids": f"{rows} rows"}
    unread = any(problem.kind == UNREADABLE for problem in problems)
    groups = {kind: name for name, kinds in CHECKS.items() for kind in kinds}
    lines = []
    for name in (*CHECKS, "values"):
        mine = [problem for problem in problems if groups.get(problem.kind, "values") == name]
        serious = sum(not problem.warning for problem in mine)
        result = f"{serious} wrong" if serious else "warning" if mine else "not checked" if unread else "ok"
        lines.append((name, result, notes.get(name, "")))
    terminal.table(title, ("check", "result", ""), lines)
    for note in rules.notes():
        print(f"note: {note}")
    for problem in problems:
        print(f"{'warning, ' if problem.warning else ''}{problem}")
    wrong = [problem for problem in problems if not problem.warning]
    if wrong:
        more = f" (and {len(wrong) - 1} more, listed above)" if len(wrong) > 1 else ""
        raise UserError(f"{refusal}: {wrong[0]}{more}")


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
