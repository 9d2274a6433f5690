"""What `scripts/make_folds.py` and `scripts/check_data.py` do."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.competition import Competition
from pipeline.data import NAMES
from pipeline.data.checks import check_data
from pipeline.data.folds import (
    CLASSES,
    FOLDS,
    FoldTable,
    class_order,
    fold_path,
    is_scored,
    load_folds,
    make_folds,
    name_option,
    read_contract,
    write_classes,
    write_folds,
)
from pipeline.data.labels import Labels, labels_of
from pipeline.data.leaks import all_rows, find_leaks, print_leaks, write_leaks
from pipeline.data.marker import is_demo
from pipeline.data.spellings import FALSE, TRUE, loose
from pipeline.data.splitters import Splitter
from pipeline.data.unpacking import unpack
from pipeline.experiments import load_experiment
from pipeline.keys import ROW_FOLD, ROW_IMAGE, ROW_SOURCE
from pipeline.project import Project
from pipeline.registry import Registry, Spec
from toolkit.audit.scan import scan
from toolkit.errors import UserError, listed
from toolkit.files import read_json
from toolkit.images.readers import Reader, Rows
from toolkit.terminal import table

READER, PREPARE = Spec(name="image"), Spec(name="normalize")
USUAL, OF_DEMO = "baseline", "demo"  # experiments
MOST_CLASSES = 8  # of which each is counted by name, fold by fold
LabelTables = list[tuple[pd.DataFrame, Labels]]


def create_folds(
    project: Project,
    competition: Competition,
    name: str,
    n_folds: int | None = None,
    seed: int | None = None,
    splitter: Splitter = "auto",
    force: bool = False,
    leak_report: bool = True,
    experiment: str | None = None,
) -> None:
    """Write `folds/<name>.csv` once, with the leak report, for which the reader of `experiment` reads the images.

    What is not asked for is 5 folds, seed 0, `auto`. Folds that still fit and are what is asked for are left alone.
    Those of the demo are replaced, others if `force`; else they are a `UserError`.
    """
    path, data, labels = fold_path(project, name), project.require_data(), labels_of(competition)
    rows, demo = competition.train_rows(data), is_demo(data)
    tables = [(rows, labels), *((stage.train_rows(data), labels_of(stage)) for stage in competition.stages.values())]
    read = _image_reader(project, competition, experiment)
    asked = {"n_folds": n_folds, "seed": seed, "splitter": None if splitter == "auto" else splitter}
    if path.is_file() and not force and (current := _existing(project, competition, name, rows, asked, demo)):
        _leave_alone(project, path, current, _that_name_classes(tables, current))
        return
    found = make_folds(rows, labels, FOLDS if n_folds is None else n_folds, seed or 0, splitter)
    write_classes(project, *_that_name_classes(tables, found))
    write_folds(project, name, replace(found, demo=demo), labels.targets)
    _print_folds(project.shown(path), found, labels)
    if leak_report:
        _report_leaks(all_rows(found.rows, competition.test_rows(data)), data, read, path, project)


def _report_leaks(rows: pd.DataFrame, data: Path, reader: Reader, path: Path, project: Project) -> None:
    """Look for rows that know each other across folds or train and test; print them, and write them beside `path`."""
    looks = scan([data / image for image in rows[ROW_IMAGE]], reader, Rows(rows, reader))
    report = find_leaks(rows, looks, data, reader)
    print_leaks(report)
    if unread := sum(bool(look.fault) for look in looks):
        print(f"warning: {unread} images could not be read and were not compared; run scripts/check_data.py")
    pairs = path.with_suffix(".leaks.csv")
    if write_leaks(report, pairs):
        anew = f"make the folds again: scripts/make_folds.py{name_option(path.stem)} --force"
        remedy = f"drop copies in src/competition/tables.py, or give them a common group, and {anew}"
        print(f"all pairs are in {project.shown(pairs)}; {remedy}")


def run_checks(
    project: Project, competition: Competition, experiment: str | None = None, unpack_archives: bool = False
) -> None:
    """Find everything that is wrong with the data, as an experiment would read it (its reader, its folds)."""
    if unpack_archives:
        unpack(project.require_data(), competition.settings)
    folds = load_experiment(project, experiment).folds if experiment else "folds"
    name = experiment or usual_experiment(project)
    prepare = load_experiment(project, name).image.prepare if name else PREPARE
    reader = _image_reader(project, competition, experiment)
    check_data(project, competition, reader, folds, proposes_statistics=prepare == PREPARE)


def _image_reader(project: Project, competition: Competition, experiment: str | None) -> Reader:
    """The reader of an experiment; where none is named, that of the project's experiments, and it is said which."""
    name = experiment or usual_experiment(project)
    entry = load_experiment(project, name).image.reader if name else READER
    if name and not experiment:
        params = listed((f"{key}: {value}" for key, value in entry.params.items()), 12)
        what = f"images are read as by experiments/{name}.yaml: {entry.name}{f' ({params})' if params else ''}"
        print(f"{what}; --experiment NAME reads them as another one does")
    return Registry(NAMES, competition.all_names()).bind("reader", entry)


def usual_experiment(project: Project) -> str | None:
    """The experiment whose reader reads the images where none is named: `baseline`, or where that says nothing about
    the reader, one of those that do, if they say the same; none: the pipeline's reader as it is."""
    named: dict[str, Spec] = {}
    for path in sorted(project.experiments.glob("*.yaml")):
        with contextlib.suppress(UserError):  # told when it is trained
            named[path.stem] = load_experiment(project, path.stem).image.reader
    named = {name: reader for name, reader in named.items() if reader != READER and name != OF_DEMO}
    first = USUAL if USUAL in named else next(iter(named), None)
    return first if first == USUAL or len({str(reader) for reader in named.values()}) == 1 else None


def _existing(
    project: Project, competition: Competition, name: str, rows: pd.DataFrame, asked: dict[str, Any], demo: bool
) -> FoldTable | None:
    """The folds that are there, if they are to stay; none if they are to be replaced."""
    path = fold_path(project, name)
    contract, where = read_contract(path), project.shown(path)
    of_demo = bool(contract.get("demo"))
    if of_demo and not demo:
        print(f"{where} was made for the demo and is replaced")
        return None
    different = [f"{key} {contract[key]}" for key, each in asked.items() if each not in (None, contract.get(key, each))]
    try:
        current = load_folds(project, name, rows, competition.settings)
        labels_of(competition).check_folds(current.rows, where)
        if different:
            remedy = "--name OTHER writes another file, --force replaces it (and what ran on it compares no longer)"
            raise UserError(f"{where} was made with {listed(different)}; {remedy}")
    except UserError:
        if of_demo:
            return None
        raise
    return current


def _that_name_classes(tables: LabelTables, folds: FoldTable) -> LabelTables:
    """The tables for `write_classes`: of a given validation split, labelled rows that only train name classes too."""
    if folds.n_folds > 1:
        return tables
    found = []
    for rows, labels in tables:
        cells = [labels.cells(rows, column) for column in labels.targets]
        lacks_one = rows.index.isin([row for values in cells for row in values.index[values.isna()]])
        found.append((rows[is_scored(rows) | ~lacks_one].drop(columns=ROW_SOURCE), labels))
    return found


def _leave_alone(project: Project, path: Path, current: FoldTable, tables: LabelTables) -> None:
    """Say that the folds still fit; classes that are new since then are written."""
    for note in current.warnings:
        print(f"warning: {note}")
    classes = project.folds / CLASSES
    before = read_json(classes) if classes.is_file() else {}
    parts = [
        (labels.cells(rows[is_scored(rows)], column), column) for rows, labels in tables for column in labels.named
    ]
    if any(not set(cells.dropna()) <= set(before.get(column, ())) for cells, column in parts):
        write_classes(project, *tables)
        print(f"there are new classes: {project.shown(classes)} is written anew")
    print(f"{project.shown(path)} is there already and still fits; nothing to do")


def _print_folds(where: str, folds: FoldTable, labels: Labels) -> None:
    sizes, columns = folds.sizes(), fold_columns(folds, labels)
    print(f"{where}: {sum(sizes)} rows in {folds.n_folds} folds ({folds.splitter}, seed {folds.seed})")
    table("", ("fold", "rows", *columns), zip(range(folds.n_folds), sizes, *columns.values(), strict=True))
    if extra := len(folds.rows) - sum(sizes):
        print(f"{extra} rows of other sources only train")
    for note in folds.warnings:
        print(f"warning: {note}")


def fold_columns(folds: FoldTable, labels: Labels) -> dict[str, list[str]]:
    """Columns of the printed table, a cell for each fold: classes, positives, or the mean and range of numbers."""
    rows, numbers = folds.rows[folds.rows[ROW_FOLD] >= 0], range(folds.n_folds)
    counts: dict[str, pd.DataFrame] = {}  # int64 (classes, folds): rows of each class that a fold holds
    found: dict[str, list[str]] = {}
    for column in labels.named:
        cells = labels.cells(rows, column).dropna().astype(str)
        made = pd.crosstab(cells.to_numpy(), rows.loc[cells.index, ROW_FOLD].to_numpy())
        counts[column] = made.reindex(index=class_order(cells), columns=numbers, fill_value=0)
    flags = [name for name, each in counts.items() if all(loose(label) in (*TRUE, *FALSE) for label in each.index)]
    if len(flags) > 1:  # one column of the table for all of them
        held = {name: counts.pop(name) for name in flags}
        sums = {name: each[[loose(label) in TRUE for label in each.index]].sum() for name, each in held.items()}
        counts = {"positives": pd.DataFrame(sums).T, **counts}
    for column in dict.fromkeys(["positives", *labels.targets]):
        if column in counts:
            found[column] = [_classes(counts[column][fold], column) for fold in numbers]
        elif column not in labels.named and column in rows:
            parts = pd.to_numeric(rows[column], errors="coerce").astype("float64").groupby(rows[ROW_FOLD])
            found[column] = [f"mean {part.mean():.4g}, {part.min():.4g} to {part.max():.4g}" for _, part in parts]
    for column, each in counts.items():  # what a fold holds out as a whole, so that its run never trains it
        whole = each[(each > 0).sum(axis=1) == 1]
        names = [whole.index[whole[fold] > 0] for fold in numbers]
        if len(whole):
            found[f"{column}: only here"] = [f"{len(some)} ({listed(some, 2)})" if len(some) else "" for some in names]
    return found


def _classes(counts: "pd.Series[int]", column: str) -> str:
    """How many rows each class has in a fold; of many classes, how many there are and how often the rarest is."""
    if len(counts) <= MOST_CLASSES:
        return ", ".join(f"{name}: {count}" for name, count in counts.items())
    there = counts[counts > 0]
    rarest = f", the rarest {there.idxmin()}: {there.min()}" if len(there) else ""
    return f"{len(there)} of {len(counts)} {'labels' if column == 'positives' else 'classes'}{rarest}"
