"""What is wrong with the data, all of it: tables, labels, images, sample submission, folds, copies."""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.competition import Competition, Head
from pipeline.data.check_images import content_faults, copy_faults, data_statistics, image_count_faults, image_faults
from pipeline.data.check_labels import label_faults, number_faults, target_faults
from pipeline.data.check_tables import csv_faults, id_spellings, sample_faults, sample_spellings
from pipeline.data.faults import Fault
from pipeline.data.folds import CLASSES, FOLDS, NO_FOLD, fold_path, is_scored, load_folds, name_option, read_contract
from pipeline.data.labels import labels_of
from pipeline.data.leaks import LeakReport, all_rows, find_leaks, print_leaks
from pipeline.data.marker import is_demo
from pipeline.data.side_columns import side_inputs
from pipeline.data.tables import TEXT_SUFFIXES, read_table
from pipeline.keys import ROW_FOLD, ROW_ID, ROW_IMAGE, ROW_SOURCE, SOURCE_COMPETITION
from pipeline.paths import Project
from pipeline.prediction_ids import by_prediction, with_predictions
from pipeline.rows import received, require_groups
from pipeline.settings import Settings
from toolkit.audit.scan import scan
from toolkit.errors import UserError, listed
from toolkit.files import read_json
from toolkit.images.row_reader import Reader, Rows
from toolkit.terminal import console, table

MOST_SHOWN = 20


def check_data(
    project: Project, competition: Competition, reader: Reader, folds: str, proposes_statistics: bool = True
) -> None:
    """Find everything that is wrong with the data, and print it.

    Args:
        reader: reads the images, at reduced size.
        folds: the name of the fold file; copies across folds are looked for where it is there.
        proposes_statistics: print the mean and deviation of images that are no 8-bit RGB, as an experiment names them.

    Raises:
        UserError: something fatal was found; it is counted in one line.
    """
    data, settings = project.require_data(), competition.settings
    competition.require_settings()
    train, faults = _rows(competition, "train_rows", data)
    test, more = _rows(competition, "test_rows", data)
    faults += [*more, *_table_faults(settings, data)]
    train, more, classes = _with_folds(project, competition, train, folds)
    faults += more
    if not train.empty:
        faults += _truth_faults(competition, data, train, test, classes)
    faults += sample_faults(settings, data, by_prediction(test), labels_of(competition))
    faults += [*id_spellings(train, "train rows"), *id_spellings(test, "test rows")]
    faults += image_count_faults(train, test)
    rows = all_rows(train, test)
    looks = scan([data / path for path in rows[ROW_IMAGE]], reader, rows=Rows(rows, reader))
    faults += [*image_faults(rows, looks), *content_faults(rows, looks), *copy_faults(rows, looks, settings)]
    leaks = find_leaks(rows, looks, data, reader)
    statistics = data_statistics(rows, looks) if proposes_statistics else ""
    if statistics:
        what = "these images are no 8-bit RGB; an experiment normalises by their own mean and standard deviation with:"
        console().print(what, soft_wrap=True)
        print(statistics, flush=True)
    _report(project, faults, leaks, len(train), len(test))


def _table_faults(settings: Settings, data: Path) -> Iterator[Fault]:
    """What is wrong with the files themselves."""
    keys = {settings.id_column, settings.group_column, settings.prediction_column, *settings.target_columns}
    for name in dict.fromkeys((settings.train_csv, settings.test_csv, settings.sample_submission)):
        if name.lower().endswith(TEXT_SUFFIXES):
            yield from csv_faults(data / name, keys)


def _truth_faults(
    competition: Competition,
    data: Path,
    train: pd.DataFrame,
    test: pd.DataFrame,
    classes: Mapping[str, Sequence[str]],
) -> Iterator[Fault]:
    """What is wrong with the target columns."""
    labels, n_folds = labels_of(competition), int(train[ROW_FOLD].max()) + 1
    own = list(labels.faults(train))
    yield from own
    unreadable = {fault.row for fault in own if fault.fatal}
    train = train[~train[ROW_ID].astype(str).isin(unreadable)]  # what cannot be read cannot be counted
    if train.empty:
        return
    yield from label_faults(train, labels, competition.settings, classes)
    yield from target_faults(train, test, labels, n_folds if n_folds > 1 else FOLDS)
    yield from number_faults(train, labels, _heads(competition, classes))
    with contextlib.suppress(UserError):  # of the sample, which is told of elsewhere, or of the metric
        sample = read_table(data / competition.settings.sample_submission)
        decides = competition.metrics()[0].needs == "labels"
        yield from sample_spellings(competition.settings, sample, train, labels, decides)


def _rows(competition: Competition, function: str, data: Path) -> tuple[pd.DataFrame, list[Fault]]:
    """The rows as far as they can be had; where an id stands twice, the first one."""
    empty = pd.DataFrame({ROW_ID: [], ROW_IMAGE: []}, dtype="str")
    what, settings, is_train = function.replace("_", " "), competition.settings, function == "train_rows"
    try:
        rows = getattr(importlib.import_module(f"{competition.package}.tables"), function)(settings, data)
        rows = received(rows, settings.train_csv if is_train else settings.test_csv, settings)
        if is_train:
            require_groups(rows, settings)
    except UserError as error:
        return empty, [Fault("table", what, str(error))]
    if rows.empty and is_train:
        return empty, [Fault("table", what, "there are no training rows")]
    counts = rows[ROW_ID].value_counts()
    faults = [Fault("duplicate id", str(name), f"{count} {what}") for name, count in counts[counts > 1].items()]
    rows = rows.drop_duplicates(ROW_ID).reset_index(drop=True)
    rows = rows if ROW_SOURCE in rows else rows.assign(**{ROW_SOURCE: SOURCE_COMPETITION})
    try:
        rows = with_predictions(rows, settings.target_columns if is_train else ())
    except UserError as error:
        faults.append(Fault("prediction ids", what, str(error)))
    for column, categories in settings.side_columns.items():
        try:
            side_inputs(rows, {column: categories}, is_test=not is_train)
        except UserError as error:
            faults.append(Fault("side column", what, str(error)))
    return rows, faults


def _with_folds(
    project: Project, competition: Competition, train: pd.DataFrame, name: str
) -> tuple[pd.DataFrame, list[Fault], Mapping[str, Sequence[str]]]:
    """Training rows with their folds and classes; without a fold file that fits, all of them lie in fold 0."""
    unfolded = train.assign(**{ROW_FOLD: is_scored(train).map({True: 0, False: NO_FOLD}).astype("int64")})
    path = fold_path(project, name)
    if train.empty or not path.is_file():
        return unfolded, [], {}
    try:
        if read_contract(path).get("demo") and not is_demo(project.data):
            note = f"these folds are the demo's; scripts/make_folds.py{name_option(name)} replaces them"
            return unfolded, [Fault("folds", name, note, fatal=False)], {}
        found = load_folds(project, name, train, competition.settings)
        labels_of(competition).check_folds(found.rows, project.shown(path))
        classes = read_json(project.folds / CLASSES) if (project.folds / CLASSES).is_file() else {}
    except UserError as error:
        return unfolded, [Fault("folds", name, str(error))], {}
    return found.rows, [Fault("folds", name, note, fatal=False) for note in found.warnings], classes


def _heads(competition: Competition, classes: Mapping[str, Sequence[str]]) -> Sequence[Head]:
    """What is predicted, as far as that can be told before there are classes."""
    try:
        return competition.heads(classes)
    except UserError:
        return ()


def _report(project: Project, faults: list[Fault], leaks: LeakReport, train: int, test: int) -> None:
    out = console()
    sorts: dict[tuple[str, bool], list[Fault]] = {}
    for fault in faults:
        sorts.setdefault((fault.problem, fault.fatal), []).append(fault)
    for (problem, is_fatal), members in sorts.items():
        same: dict[str, list[str]] = {}
        for fault in members:
            same.setdefault(fault.detail, []).append(fault.row)
        rest = f" (the first {MOST_SHOWN})" if len(same) > MOST_SHOWN else ""
        out.print(f"{'' if is_fatal else 'note, '}{problem}: {len(members)}{rest}")
        lines = [(len(rows), listed(rows), detail) for detail, rows in list(same.items())[:MOST_SHOWN]]
        table("", ("count", "row", "detail"), lines)
    print_leaks(leaks)
    fatal = sum(fault.fatal for fault in faults)
    out.print(f"checked {train} training rows and {test} test rows in {project.shown(project.data)}")
    if fatal == 1:
        [only] = [fault for fault in faults if fault.fatal]
        remedy = (
            "" if "; " in only.detail else "; mend it, or drop the row in src/competition/tables.py"
        )  # one is enough
        raise UserError(f"a fault in the data ({only.problem}): {only.row}: {only.detail}{remedy}")
    if fatal:
        names = ", ".join(f"{len(members)} x {problem}" for (problem, is_fatal), members in sorts.items() if is_fatal)
        raise UserError(
            f"{fatal} faults in the data ({names}); mend them, or drop the rows in src/competition/tables.py"
        )
    out.print("the data can be trained on")
