"""What is wrong with the data, all of it: tables, labels, images, sample submission, folds, copies."""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.competition import Competition
from pipeline.data.check_images import data_statistics, image_count_faults, image_faults
from pipeline.data.check_labels import label_faults, limit_faults, target_faults
from pipeline.data.check_tables import csv_faults, id_spellings, sample_faults, sample_spellings
from pipeline.data.faults import Fault, print_faults, require_no_fatal
from pipeline.data.folds import CLASSES, FOLDS, NO_FOLD, fold_path, is_scored, load_folds, name_option, read_contract
from pipeline.data.labels import labels_of
from pipeline.data.leaks import all_rows, find_leaks, print_leaks
from pipeline.data.marker import is_demo
from pipeline.data.side_columns import side_inputs
from pipeline.data.tables import TEXT_SUFFIXES, read_table
from pipeline.keys import ROW_FOLD, ROW_ID, ROW_IMAGE, ROW_SOURCE, SOURCE_COMPETITION
from pipeline.project import Project
from pipeline.rows import by_prediction, received, require_groups, with_predictions
from toolkit.audit.scan import scan
from toolkit.errors import UserError
from toolkit.files import read_json
from toolkit.images.readers import Reader, Rows

Classes = Mapping[str, Sequence[str]]


def check_data(
    project: Project, competition: Competition, reader: Reader, folds: str, proposes_statistics: bool = True
) -> None:
    """Find everything that is wrong with the data, and print it.

    Args:
        folds: the name of the fold file; copies across folds are looked for where it is there.
        proposes_statistics: print the mean and deviation of images that are no 8-bit RGB, as an experiment names them.

    Raises:
        UserError: something fatal was found; it is counted in one line.
    """
    data, settings = project.require_data(), competition.settings
    competition.require_settings()
    faults: list[Fault] = []
    train, test = (_rows(competition, part, data, faults) for part in ("train_rows", "test_rows"))
    keys = {settings.id_column, settings.group_column, settings.prediction_column, *settings.target_columns}
    for name in dict.fromkeys((settings.train_csv, settings.test_csv, settings.sample_submission)):
        if name.lower().endswith(TEXT_SUFFIXES):
            faults += csv_faults(data / name, keys)
    train, classes = _with_folds(project, competition, train, folds, faults)
    if not train.empty:
        faults += _truth_faults(competition, data, train, test, classes)
    faults += sample_faults(settings, data, by_prediction(test), labels_of(competition))
    faults += [*id_spellings(train, "train rows"), *id_spellings(test, "test rows"), *image_count_faults(train, test)]
    rows = all_rows(train, test)
    looks = scan([data / path for path in rows[ROW_IMAGE]], reader, rows=Rows(rows, reader))
    faults += image_faults(rows, looks, settings.target_columns)
    leaks = find_leaks(rows, looks, data, reader)
    if proposes_statistics and (statistics := data_statistics(rows, looks)):
        print("these images are no 8-bit RGB; an experiment normalises by their own mean and standard deviation with:")
        print(statistics)
    print_faults(faults)
    print_leaks(leaks)
    print(f"checked {len(train)} training rows and {len(test)} test rows in {project.shown(project.data)}")
    require_no_fatal(faults)
    print("the data can be trained on")


@contextlib.contextmanager
def _noted(faults: list[Fault], problem: str, where: str) -> Iterator[None]:
    """Inside, a `UserError` ends the block and becomes a fault."""
    try:
        yield
    except UserError as error:
        faults.append(Fault(problem, where, str(error)))


def _truth_faults(
    competition: Competition, data: Path, train: pd.DataFrame, test: pd.DataFrame, classes: Classes
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
    with contextlib.suppress(UserError):  # of heads that need the classes, which are not there yet
        yield from limit_faults(train, competition.heads(classes))
    with contextlib.suppress(UserError):  # of the sample, which is told of elsewhere, or of the metric
        sample = read_table(data / competition.settings.sample_submission)
        decides = competition.metrics()[0].needs == "labels"
        yield from sample_spellings(competition.settings, sample, train, labels, decides)


def _rows(competition: Competition, function: str, data: Path, faults: list[Fault]) -> pd.DataFrame:
    """The rows as far as they can be had, those of an id that stands twice once; their faults are added to `faults`."""
    what, settings, is_train = function.replace("_", " "), competition.settings, function == "train_rows"
    rows = pd.DataFrame({ROW_ID: [], ROW_IMAGE: []}, dtype="str")
    with _noted(faults, "table", what):
        made = getattr(importlib.import_module(f"{competition.package}.tables"), function)(settings, data)
        made = received(made, settings.train_csv if is_train else settings.test_csv, settings)
        if is_train:
            require_groups(made, settings)
            if made.empty:
                raise UserError("there are no training rows")
        rows = made
    if rows.empty:
        return rows
    counts = rows[ROW_ID].value_counts()
    faults += [Fault("duplicate id", str(name), f"{count} {what}") for name, count in counts[counts > 1].items()]
    rows = rows.drop_duplicates(ROW_ID).reset_index(drop=True)
    rows = rows if ROW_SOURCE in rows else rows.assign(**{ROW_SOURCE: SOURCE_COMPETITION})
    with _noted(faults, "prediction ids", what):
        rows = with_predictions(rows, settings.target_columns if is_train else ())
    for column, categories in settings.side_columns.items():
        with _noted(faults, "side column", what):
            side_inputs(rows, {column: categories}, is_test=not is_train)
    return rows


def _with_folds(
    project: Project, competition: Competition, train: pd.DataFrame, name: str, faults: list[Fault]
) -> tuple[pd.DataFrame, Classes]:
    """Training rows with their folds and classes; without a fold file that fits, all of them lie in fold 0.

    Faults of the fold file are added to `faults`.
    """
    path = fold_path(project, name)
    with _noted(faults, "folds", name):
        if not train.empty and path.is_file():
            if not read_contract(path).get("demo") or is_demo(project.data):
                found = load_folds(project, name, train, competition.settings)
                labels_of(competition).check_folds(found.rows, project.shown(path))
                classes = read_json(project.folds / CLASSES) if (project.folds / CLASSES).is_file() else {}
                faults += [Fault("folds", name, note, fatal=False) for note in found.warnings]
                return found.rows, classes
            note = f"these folds are the demo's; scripts/make_folds.py{name_option(name)} replaces them"
            faults.append(Fault("folds", name, note, fatal=False))
    return train.assign(**{ROW_FOLD: is_scored(train).map({True: 0, False: NO_FOLD}).astype("int64")}), {}
