"""Pseudo labels: what a teacher's models say of rows without a truth, which then train a student (noisy student, Xie et
al., arXiv:1911.04252).

Rows of `only_fold` k are labelled by the teacher's model of fold k, and train the student's fold k alone: neither has
seen the truth of what fold k holds out. Those of -1 have the mean of all folds, for the run `full`, which holds nothing
out. A student is a teacher in its turn.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.competition import Competition, Head
from pipeline.config import Experiment
from pipeline.data.folds import NO_FOLD, FoldTable, only_fold
from pipeline.data.tables import image_rows, read_table
from pipeline.inference.ensemble_members import is_ensemble
from pipeline.inference.predict import TrainedRun, expected_folds, predict_rows
from pipeline.inference.snapshot import run_competition
from pipeline.inference.weights import RUN
from pipeline.keys import ROW_FOLD, ROW_ID, ROW_IMAGE, ROW_ONLY_FOLD, ROW_PREDICTION, ROW_SOURCE, ROW_WEIGHT
from pipeline.project import Project
from pipeline.rows import checked
from pipeline.tasks import Task
from pipeline.types import PreparedModel
from toolkit.errors import UserError, listed, nearest
from toolkit.files import atomic, digest, read_json, read_yaml
from toolkit.terminal import table

FOLDS, CLASSES = "folds", "classes"  # attributes of the table: the hash of the teacher's folds, classes by head


def pseudo_path(project: Project, name: str) -> Path:
    """Where the pseudo labels of this name lie."""
    return project.root / "data" / "pseudo" / f"{name}.parquet"


def unlabelled_rows(competition: Competition, source: str, data: Path) -> pd.DataFrame:
    """The test rows, for `test`, or those of a csv with the id column, whose images lie where those of training or of
    test rows do; a `UserError` where they are training rows."""
    if source == "test":
        return competition.test_rows(data)
    settings = competition.settings
    read = read_table(Path(source)).drop(columns=list(settings.target_columns), errors="ignore")
    rows = checked(image_rows(read, settings, [settings.train_images, settings.test_images], data), source, settings)
    known = rows.merge(competition.train_rows(data)[[ROW_ID, ROW_IMAGE]])[ROW_ID]
    if len(known):
        raise UserError(f"{source}: {len(known)} rows (id {listed(known)}) are training rows; take them out")
    return rows


def require_no_leak(run: TrainedRun) -> None:
    """Raise a `UserError` where a teacher's model of a fold, or one it started from, may know the truth of what that
    fold holds out, and for an ensemble, which has no models."""
    if is_ensemble(run.folder):
        raise UserError(f"'{run.folder.name}' is an ensemble and has no models of its own; name one of its members")
    path, known = run.folder / "config.yaml", set[Path]()
    while path.is_file() and path not in known:  # two runs may have started from each other, one of them anew
        config = read_yaml(path)
        given = config.get("model", {}).get("weights") or ""
        if config.get("inputs") or (given.startswith(RUN) and "/" in given):
            why = "reads the mean of an earlier stage's folds" if config.get("inputs") else f"started from {given}"
            via = "" if path.parent == run.folder else f"'{path.parent.name}', from which it started, "
            raise UserError(f"'{run.folder.name}': {via}{why}, which saw the truth of held-out rows; choose another")
        if not given.startswith(RUN):
            return
        known.add(path)
        path = path.parent.with_name(given.removeprefix(RUN)) / path.name


def write_pseudo_labels(
    project: Project, run: TrainedRun, rows: pd.DataFrame, name: str, above: float, soft: bool, weight: float
) -> None:
    """Label `rows` by each finished fold of a run, and write them under a name. Of classes, labels less probable than
    `above` are left out; `soft` ones are probabilities."""
    require_no_leak(run)
    task, teacher, folds = run.task, run.folder.name, run.choose_folds(None, held_out=True)
    task.predictions.pseudo_labels(task.predictions.empty(), above, soft)  # refused before it takes time
    found: dict[int, pd.DataFrame] = {}
    for each in folds:
        models, label = run.load(each), f"{teacher}, fold {each}"
        found[int(each)] = predict_rows(task, models, rows, project.data, run.experiment, run.names, "test", label)
    if folds == expected_folds(run.folder):
        found[NO_FOLD] = task.predictions.average(list(found.values()))
    parts: list[pd.DataFrame] = []
    key = ROW_PREDICTION if ROW_PREDICTION in rows else ROW_ID
    for fold, predictions in found.items():
        labels = task.predictions.pseudo_labels(predictions, above, soft).dropna(how="all")
        given = [*labels, *task.competition.settings.target_columns]
        part = rows.drop(columns=given, errors="ignore").merge(labels, left_on=key, right_index=True)
        own: dict[str, Any] = {ROW_SOURCE: name, ROW_WEIGHT: weight, ROW_ONLY_FOLD: fold}
        parts.append(part.assign(**own, **{ROW_ID: f"{name}:{fold}:" + part[ROW_ID]}))
    labelled = pd.concat(parts, ignore_index=True)
    if labelled.empty:
        what = f"'{teacher}' labels none of {len(rows)} rows with a probability of {above}"
        raise UserError(f"{what}; lower --above, or leave it out (numbers have no probability)")
    of_heads = {head.name: list(head.classes) for head in task.heads}
    labelled.attrs = {FOLDS: read_json(run.folder / "run.json")["folds"], CLASSES: of_heads}
    path = pseudo_path(project, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        labelled.to_parquet(temporary, index=False)
    lines = [("full" if fold < 0 else fold, len(part), len(rows)) for fold, part in zip(found, parts, strict=True)]
    table(f"pseudo labels of '{teacher}'", ("for fold", "labelled", "of rows"), lines)
    print(f"written: {project.shown(path)}; an experiment trains on them with `pseudo: [{name}]`")


def teacher_models(
    project: Project, name: str, student: Experiment, folds_hash: str, heads: Sequence[Head], fold: str | None = None
) -> list[PreparedModel]:
    """The models of a teacher for the fold that a student trains, one for each seed; without a fold none, only checked.

    Raises:
        UserError: there is no such run or fold, or it would leak, reads other inputs, or has other heads.
    """
    folder = project.require_run(name)
    if read_json(folder / "run.json")["folds"] != folds_hash:
        raise UserError(f"the teacher '{name}' was trained on other folds, so it would leak; train it on these")
    with run_competition(folder) as competition:
        run = TrainedRun.open(folder, competition)
        require_no_leak(run)
        own, its = ([(head.name, head.kind, head.classes) for head in each] for each in (heads, run.task.heads))
        sees = [(each.image.reader, each.model.in_chans, each.model.side_columns) for each in (student, run.experiment)]
        if own != its or sees[0] != sees[1]:
            raise UserError(f"the teacher '{name}' has other heads, channels, side columns or another reader")
        return [] if fold is None else [model for each in run.choose_folds(fold) for model in run.load(each)]


def fingerprints(project: Project, names: Sequence[str]) -> dict[str, str]:
    """What tells that a file of pseudo labels is another one, by name."""
    return {name: digest(pseudo_path(project, name).read_bytes()) for name in names}


def with_pseudo_labels(project: Project, names: Sequence[str], folds: FoldTable, task: Task) -> FoldTable:
    """The fold table with the rows of these pseudo labels; they train, and are never held out.

    Raises:
        UserError: there is no such file, its teacher had other folds or classes, or a row does not say its fold.
    """
    parts = [folds.rows]
    for name in names:
        path = pseudo_path(project, name)
        where = project.shown(path)
        if not path.is_file():
            hint = nearest(name, [file.stem for file in path.parent.glob("*.parquet")])
            raise UserError(f"there are no pseudo labels '{name}'; {hint} (scripts/pseudo.py TEACHER --name {name})")
        rows = pd.read_parquet(path)
        if rows.attrs.get(FOLDS) != folds.hash:
            remedy = f"label again: scripts/pseudo.py TEACHER --name {name}, by a teacher trained on these"
            raise UserError(f"{where}: its teacher was trained on other folds, so it would leak; {remedy}")
        if rows.attrs.get(CLASSES) != {head.name: list(head.classes) for head in task.heads}:
            raise UserError(f"{where}: its teacher has other heads or classes; train it again, and label again")
        strange = ~only_fold(rows).isin(range(NO_FOLD, folds.n_folds)) | (rows[ROW_SOURCE] != name)
        if strange.any():
            which = f"{int(strange.sum())} rows (id {listed(rows[ROW_ID][strange])})"
            why = f"lack only_fold or the source '{name}', so they would leak"
            raise UserError(f"{where}: {which} {why}; write it anew: scripts/pseudo.py")
        rows = checked(rows, where, task.competition.settings)
        parts.append(task.predictions.labelled(rows).assign(**{ROW_FOLD: NO_FOLD}))
    if not names:
        return folds
    joined = pd.concat(parts, ignore_index=True)
    if ROW_PREDICTION in joined:  # what only trains stands for itself
        joined[ROW_PREDICTION] = joined[ROW_PREDICTION].where(joined[ROW_FOLD] >= 0, joined[ROW_ID])
    return replace(folds, rows=joined)
