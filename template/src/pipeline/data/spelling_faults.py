"""What `check_data.py` says about labels, groups and ids that stand in two spellings, and about the sample's own."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from pipeline.data.faults import Fault
from pipeline.data.labels import Labels
from pipeline.data.spellings import alike, answers, are_one, loose, loose_id
from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID, ROW_PREDICTION
from pipeline.settings import Settings
from pipeline.submission_schema import sample_id_column
from toolkit.errors import listed

MISSING = ("nan", "none", "null", "na", "n/a", "<na>", "nat", "")


def label_spellings(column: str, cells: pd.Series) -> Iterator[Fault]:
    """Classes that are one in several spellings, and those that are the text of a missing value.

    Args:
        cells: every label of the rows (str).
    """
    remedy = f'make them one in src/competition/tables.py: rows["{column}"] = rows["{column}"].replace(...)'
    counts = cells.value_counts()
    for same in alike(counts.index):
        detail = (
            f"{_counted(same, counts)} differ by case, spaces or zeros only, and are classes of their own; {remedy}"
        )
        yield Fault("labels", column, detail, fatal=are_one(same))
    said = answers(counts.index)
    for word, same in said.items():
        if len(same) > 1:
            yield Fault("labels", column, f"{_counted(same, counts)} all say {word}; {remedy}")
    for name in [name for name in counts.index if name.strip().lower() in MISSING]:
        detail = (
            f"{name!r} is the class of {counts[name]} rows; where it means that the label is not known, drop these "
            "rows in src/competition/tables.py"
        )
        yield Fault("labels", column, detail, fatal=not name.strip())


def group_spellings(rows: pd.DataFrame) -> Iterator[Fault]:
    """Groups that are one in several spellings: folds that were made without knowing it tear them apart."""
    if ROW_GROUP not in rows:
        return
    known = rows[rows[ROW_GROUP].notna()]
    counts = known[ROW_GROUP].value_counts()
    found = alike(counts.index)
    if found:
        keys = known[ROW_GROUP].map(loose)
        scored = known[ROW_FOLD] >= 0
        torn = known.loc[scored, ROW_FOLD].groupby(keys[scored]).nunique() > 1
        leaks = [same for same in found if bool(torn.get(loose(same[0]), False))]
        what = (
            f"{len(found)} groups stand in several spellings ({listed((_counted(same, counts) for same in found), 2)})"
        )
        where = f", and {len(leaks)} of them lie in several folds" if leaks else "; make_folds.py keeps them together"
        remedy = (
            "give each one name in src/competition/tables.py, such as "
            f'rows["{ROW_GROUP}"].str.strip().str.lower(){", and make the folds anew" if leaks else ""}'
        )
        yield Fault("groups", ROW_GROUP, f"{what}{where}; {remedy}", fatal=any(map(are_one, leaks)))
    for name in [name for name in counts.index if name.strip().lower() in MISSING and counts[name] > 1]:
        detail = f"{counts[name]} rows are one group called {name!r}; where it means that the group is not known, "
        detail += "give each such row a name of its own in src/competition/tables.py"
        yield Fault("groups", ROW_GROUP, detail, fatal=False)


def id_spellings(rows: pd.DataFrame, what: str) -> Iterator[Fault]:
    """Ids, and ids of predictions, that are one in several spellings."""
    for column in [column for column in (ROW_ID, ROW_PREDICTION) if column in rows]:
        found = alike(rows[column].dropna().unique(), lambda text: loose(text) if not text.isdigit() else text)
        if found:
            examples = listed((" and ".join(map(repr, same)) for same in found), 3)
            detail = f"{len(found)} of them stand in several spellings ({examples}): where they are one image, drop one"
            yield Fault(f"{column} spellings", what, f"{detail} in src/competition/tables.py", fatal=False)


def renamed_ids(asked: pd.Series, test: pd.Series) -> dict[str, str]:
    """Ids that the sample asks for and no test row has, with those test ids that must be meant by them."""
    known = set(test)
    left = {loose_id(name): name for name in test if name not in set(asked)}
    lost = [name for name in asked.unique() if name not in known]
    return {name: left[loose_id(name)] for name in lost if loose_id(name) in left}


def sample_spellings(
    settings: Settings, sample: pd.DataFrame, train: pd.DataFrame, labels: Labels, decides: bool
) -> Iterator[Fault]:
    """Classes that the sample submission spells otherwise than the training rows, in its head or in its cells.

    Args:
        decides: whether cells hold what is decided; numbers are no classes.
    """
    own = sample_id_column(list(map(str, sample.columns)), settings.id_column)
    columns = [name for name in map(str, sample.columns) if name != own]
    named = [column for column in labels.named if column in train]
    classes = {column: list(labels.cells(train, column).dropna().astype(str).unique()) for column in named}
    known = [*settings.target_columns, *(name for names in classes.values() for name in names)]
    yield from _otherwise(settings.sample_submission, columns, known, "column")
    if not decides:
        return
    single = {columns[0]: named[0]} if len(columns) == len(named) == 1 else {}
    for name in columns:
        column = single.get(name, name)
        if column in classes:
            cells = labels.cells(pd.DataFrame({column: sample[name], ROW_ID: sample[own]}), column).dropna()
            yield from _otherwise(settings.sample_submission, cells.unique(), classes[column], f"'{name}' cell")


def _otherwise(sample: str, found: Iterable[str], known: Sequence[str], what: str) -> Iterator[Fault]:
    """A note for what is not known and alike to something that is."""
    exact, by_key = set(known), {loose(name): name for name in reversed(known)}
    pairs = [(name, by_key[loose(name)]) for name in found if name not in exact and loose(name) in by_key]
    if pairs:
        shown = listed((f"{theirs!r} in the sample, {ours!r} in training" for theirs, ours in pairs), 3)
        remedy = "spell the training rows as the sample does, in src/competition/tables.py"
        if what == "column":
            remedy = "the submission keeps the sample's"
        yield Fault(
            "sample submission", sample, f"{len(pairs)} {what}s are spelled otherwise ({shown}); {remedy}", False
        )


def _counted(names: Sequence[str], counts: pd.Series) -> str:
    return ", ".join(f"{name!r} ({counts[name]} rows)" for name in names[:5])
