"""Ensembles: experiments whose predictions are joined, as an experiment of its own in `runs/NAME`.

Its out-of-fold predictions of a fold are made with what was fitted to the other folds, so that scores, thresholds and
further ensembles can be built on them; test rows are predicted with what was fitted to all. Its settings and its code
are those of the first member, whose heads and folds all of them have.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition import Competition, metric_values
from pipeline.data.side_columns import side_inputs
from pipeline.experiments import NAME
from pipeline.inference.ensemble_members import FILE, common_folds, fingerprint, is_ensemble, out_of_fold
from pipeline.inference.evaluation import evaluate_run, labelled_rows
from pipeline.inference.joining import Fitted, join
from pipeline.inference.method_search import BEST, MethodSearch
from pipeline.inference.predict import FOLDS, HELD_OUT, TEST, TrainedRun, read_predictions, write_predictions
from pipeline.inference.snapshot import CODE, FINISHED, finished_folds, run_competition
from pipeline.inference.thresholds import SCORES, metric_code
from pipeline.keys import ROW_ID
from pipeline.project import Project
from pipeline.rows import by_prediction
from toolkit.errors import UserError
from toolkit.files import digest, dump_yaml, read_json, read_yaml, write_json, write_text
from toolkit.plots.figures import save_figure

FITTED, FORMAT = "fitted.json", 1  # in the run's folder, and its format


def make_ensemble(project: Project, name: str, members: Sequence[str], method: str, restart: bool) -> None:
    """Join experiments, `best` by the method with the best nested score, and evaluate what comes of it.

    Raises:
        UserError: the name is taken, a member has no out-of-fold predictions or was trained on others' held-out rows,
            or a head cannot be joined so.
    """
    folder, data = project.run(name), project.require_data()
    before = _known(project, name, members, method, restart)
    runs = [project.require_run(member) for member in members]
    for run in runs:
        require_current(project, run)
    with run_competition(runs[0]) as competition:
        first = TrainedRun.open(runs[0], competition)
        stage = first.task.competition
        made_of = {run.name: fingerprint(run) for run in runs}
        is_now: dict[str, Any] = {"members": list(members), "asked": method, "metric": stage.metrics()[0].name}
        is_now |= {"metric_code": metric_code(stage), "made_of": made_of}
        whole = (folder / SCORES).is_file() and before.get("fitted") == _stamp(folder)
        if whole and {key: before.get(key) for key in is_now} == is_now:
            print(f"'{name}' is made of these as they are, by '{before['method']}'; there is nothing to do")
            return
        folds, rows = common_folds(runs, made_of, method), labelled_rows(project, first, data)
        tables, labelled = out_of_fold(runs, folds, by_prediction(rows))
        side = side_inputs(labelled, stage.settings.side_columns, is_test=False)
        found = MethodSearch(first.task, members, tables, labelled, side, method)
        _write(project, folder, first, found, folds, is_now)
        found.print_scores(name)
        evaluate_run(project, competition, folder, data, ",".join(folds))


def require_current(project: Project, run: Path) -> str | None:
    """The folds of an ensemble, `0,1`, none of another run; a `UserError` where a member is not what it was made of."""
    if not is_ensemble(run):
        return None
    made = read_json(run / FILE)
    for name, was in made["made_of"].items():
        member = project.require_run(name)
        require_current(project, member)
        now = fingerprint(member)
        if {fold: now["oof"].get(fold) for fold in was["oof"]} != was["oof"] or now["folds"] != was["folds"]:
            raise UserError(f"'{name}' was trained again since '{run.name}' was made of it; {_remedy(run, made)}")
    return ",".join(finished_folds(run))


def predict_ensemble(project: Project, competition: Competition, folder: Path, data: Path, fold: str | None) -> None:
    """Join the test predictions of the members; a `UserError` names those that are missing or out of date, and the
    command that makes them."""
    require_current(project, folder)
    run, made = TrainedRun.open(folder, competition), read_json(folder / FILE)
    if fold is not None:
        each = f"run scripts/predict.py {' '.join(made['members'])} --fold {fold}, and then without --fold"
        raise UserError(f"'{folder.name}' is an ensemble and joins what its members predicted; {each} {folder.name}")
    if made.get("fitted") != _stamp(folder):
        what = f"{project.shown(folder / FITTED)} is damaged, or of another version"
        raise UserError(f"{what}; make '{folder.name}' anew: {_remedy(folder, made)}")
    rows = by_prediction(run.task.competition.test_rows(data))
    members = [project.require_run(name) for name in made["members"]]
    names = list(map(str, run.task.predictions.empty()))
    faults = {each.name: fault for each in members if (fault := _test_fault(project, each, rows[ROW_ID], names))}
    if faults:
        what = "; ".join(f"'{name}' {fault}" for name, fault in faults.items())
        raise UserError(f"{what}; run scripts/predict.py {' '.join(faults)}")
    tables, folds = [], [read_predictions(member / TEST).attrs.get(FOLDS, []) for member in members]
    for member, used in zip(members, folds, strict=True):
        trained, found = TrainedRun.open(member, competition), read_predictions(member / TEST).loc[list(rows[ROW_ID])]
        # as they are out of fold, where a run may keep masks only: then these are votes
        tables.append(found if is_ensemble(member) else run.task.stored(found, trained.experiment, trained.names))
        if used and used != ["full"] and len(used) < len(made["made_of"][member.name]["oof"]):
            print(f"note: the predictions of '{member.name}' are those of fold {', '.join(used)} alone")
    side = side_inputs(rows, run.task.competition.settings.side_columns, is_test=True)
    joined = join(Fitted(**read_json(folder / FITTED)), run.task, tables, side)
    used = ["full"] if all(each == ["full"] for each in folds) else finished_folds(folder)
    write_predictions(folder / TEST, joined, folds=used)
    print(f"{len(joined)} rows, {made['method']} of {', '.join(made['members'])}: {project.shown(folder / TEST)}")


def _known(project: Project, name: str, members: Sequence[str], method: str, restart: bool) -> dict[str, Any]:
    """What an ensemble of this name is, empty where there is none; a `UserError` where it may not be made."""
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot name an ensemble; use letters, digits, '-' and '_'")
    if (project.experiments / f"{name}.yaml").is_file():
        raise UserError(f"'{name}' is an experiment (experiments/{name}.yaml); choose another name for the ensemble")
    folder = project.run(name)
    if folder.exists() and not is_ensemble(folder):
        raise UserError(f"{project.shown(folder)} is the run of something else; choose another name for the ensemble")
    twice = sorted({member for member in members if list(members).count(member) > 1})
    of_itself = name in _all_members(project, members)
    if of_itself or twice or len(members) < 2:
        what = f"names '{twice[0]}' twice" if twice else "would be a member of itself" if of_itself else ""
        raise UserError(f"ensemble '{name}' {what or 'has one member only'}; name two or more experiments, each once")
    before: dict[str, Any] = read_json(folder / FILE) if is_ensemble(folder) else {}
    now = {"members": list(members), "asked": method}
    changed = [f"{key}: {before[key]} -> {now[key]}" for key in now if before and before[key] != now[key]]
    if changed and not restart:
        raise UserError(f"'{name}' is another ensemble ({'; '.join(changed)}); choose another name, or add --restart")
    return before


def _all_members(project: Project, names: Sequence[str]) -> set[str]:
    """The names, and those of the members of what is an ensemble among them."""
    runs = [project.run(name) for name in names]
    inner = [_all_members(project, read_json(run / FILE)["members"]) for run in runs if is_ensemble(run)]
    return set(names).union(*inner)


def _remedy(run: Path, made: dict[str, Any]) -> str:
    method = "" if made["asked"] == BEST else f" --method {made['asked']}"
    return f"run scripts/ensemble.py {run.name} {' '.join(made['members'])}{method}"


def _stamp(folder: Path) -> str:
    """What tells the file of what was fitted, as this version writes it; empty where there is none."""
    path = folder / FITTED
    return f"{FORMAT}:{digest(path.read_bytes())}" if path.is_file() else ""


def _write(
    project: Project, folder: Path, first: TrainedRun, found: MethodSearch, folds: Sequence[str], is_now: dict[str, Any]
) -> None:
    """Write the run's folder as a whole, in place of the one before; `evaluate_run` adds the rest."""
    draft = project.runs / f".{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(first.folder / CODE, draft / CODE, ignore=shutil.ignore_patterns("__pycache__"))
    description = {"description": f"ensemble, by '{found.method}', of {', '.join(found.members)}"}
    write_text(draft / "config.yaml", dump_yaml(read_yaml(first.folder / "config.yaml") | description))
    shutil.copy(first.folder / "run.json", draft)
    for fold in folds:
        here = found.folds == int(fold)
        scores = metric_values(first.task.competition.metrics(), found.truth[here], found.table[here], first.task.heads)
        write_predictions(draft / f"fold_{fold}" / HELD_OUT, found.table[here], fold=int(fold))
        write_json(draft / f"fold_{fold}" / FINISHED, {"fold": fold, "metrics": scores})
    for title, figure in found.figures().items():
        save_figure(figure, draft / "figures" / "ensemble" / f"{title}.png")
    write_text(draft / FITTED, json.dumps(vars(found.fits[found.method]), default=np.ndarray.tolist))
    write_json(draft / FILE, is_now | found.as_json() | {"fitted": _stamp(draft)})
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def _test_fault(project: Project, run: Path, ids: pd.Series, names: Sequence[str]) -> str:
    """Why the test predictions of a member cannot be used; empty where they can."""
    path = run / TEST
    if not path.is_file():
        return "has not predicted the test rows"
    table = read_predictions(path)
    if missing := int((~ids.isin(table.index)).sum()):
        return f"has predicted other test rows ({missing} of {len(ids)} are missing)"
    if not set(names) <= set(table):
        return "has predicted other columns"
    sources = list(run.glob(f"fold_*/{FINISHED}"))
    for name in read_json(run / FILE)["members"] if is_ensemble(run) else ():
        sources.append(project.run(name) / TEST)
    newer = [source for source in sources if source.is_file() and source.stat().st_mtime > path.stat().st_mtime]
    return f"has test predictions older than {project.shown(newer[0])}" if newer else ""
