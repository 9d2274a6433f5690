"""What is wrong with the sample submission: ids that it asks for and nobody predicts, columns that are no targets."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.labels import Labels
from pipeline.data.spelling_faults import renamed_ids
from pipeline.data.tables import read_table
from pipeline.keys import ROW_ID
from pipeline.settings import Settings
from pipeline.submission_schema import sample_id_column
from toolkit.errors import UserError, listed, nearest


def sample_faults(settings: Settings, data: Path, test: pd.DataFrame, labels: Labels) -> Iterator[Fault]:
    """A sample submission that is missing, names an id twice, or asks for other ids than the test rows are."""
    name = settings.sample_submission
    try:
        sample = read_table(data / name)
    except UserError as error:
        yield Fault("sample submission", name, str(error))
        return
    if len(sample.columns) < 2:
        yield Fault("sample submission", name, f"it has one column only ({sample.columns[0]}); download it again")
        return
    yield from asked_columns(settings, list(map(str, sample.columns)))
    id_column = sample_id_column(list(map(str, sample.columns)), settings.id_column)
    ids = labels.asked(sample[id_column])
    for repeated in ids[ids.duplicated()].unique():
        yield Fault("sample submission", str(repeated), "this id stands more than once in it", fatal=False)
    ids = _without_heads(ids, settings.target_columns)
    renamed = renamed_ids(ids, test[ROW_ID])
    if renamed:
        pairs = listed(f"{theirs!r} for the test row {ours!r}" for theirs, ours in renamed.items())
        detail = f"{len(renamed)} of its ids are spelled otherwise ({pairs}); spell the ids of test_rows as it does"
        yield Fault("sample submission", name, f"{detail}, in src/competition/tables.py")
        ids = ids.replace(renamed)
    asked = ids.isin(test[ROW_ID])
    if len(test) and not asked.any():
        detail = f"none of its ids ({listed(ids)}) is a test row ({listed(test[ROW_ID])})"
        if id_column != settings.id_column and not settings.prediction_column:
            detail += (
                f"; where '{id_column}' stands for several images, name it as prediction_column in competition.yaml"
            )
        yield Fault("sample submission", name, detail, fatal=False)
    elif len(test):
        for extra in ids[~asked].unique():
            yield Fault("sample submission", str(extra), "it asks for this id, and there is no such test row")
        for left in test[ROW_ID][~test[ROW_ID].isin(ids)]:
            yield Fault("sample submission", str(left), "a test row that it does not ask for", fatal=False)


def asked_columns(settings: Settings, columns: Sequence[str]) -> Iterator[Fault]:
    """Target columns that a sample with some of them leaves out, and columns that it adds to them."""
    targets, own = settings.target_columns, sample_id_column(columns, settings.id_column)
    left_out = [name for name in targets if name not in columns]
    strange = [name for name in columns if name not in (*targets, own)]
    if len(left_out) == len(targets):  # it has another form: a column of labels, or one for each class
        return
    for name in strange:
        detail = f"'{name}' is no target column; {nearest(name, targets)} (or fill it in src/competition/submission.py)"
        yield Fault("sample submission", settings.sample_submission, detail, fatal=False)
    if left_out and not strange:
        detail = (
            f"it does not ask for {len(left_out)} of the {len(targets)} target columns ({listed(left_out)}), which the "
            "metric counts as well; for a score without them write one in src/competition/metric.py"
        )
        yield Fault("sample submission", settings.sample_submission, detail, fatal=False)


def _without_heads(ids: pd.Series, targets: Sequence[str]) -> pd.Series:
    """The ids of images, where a sample has a row for each image and target column (`Test_0_vowel`)."""
    names = "|".join(re.escape(name) for name in sorted(targets, key=len, reverse=True))
    ends = rf"[^0-9A-Za-z](?:{names})$"
    by_head = len(targets) > 1 and ids.str.contains(ends).all()
    return ids.str.replace(ends, "", regex=True) if by_head else ids
