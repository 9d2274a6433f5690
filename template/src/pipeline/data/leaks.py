"""Rows that know each other across folds, or across train and test: shared groups, identical files, near-duplicates."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.fold_file import only_fold
from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID, ROW_IMAGE, ROW_SOURCE, SOURCE_COMPETITION
from toolkit.audit.near_copies import Copies, near_pairs, not_looked_for
from toolkit.audit.scan import Look
from toolkit.errors import listed
from toolkit.files import atomic
from toolkit.images.row_reader import Reader, Rows, row_reader
from toolkit.terminal import console, table

TEST, TRAIN_ONLY = -2, -1  # where a row is used, if not in a fold

COLUMNS = ("kind", "where", "id_a", "id_b", "image_a", "image_b", "distance")


@dataclass(frozen=True)
class LeakReport:
    """Pairs of rows that leak.

    Attributes:
        pairs: a table with the columns of `COLUMNS`; `kind` is `group`, `identical` or `similar`.
        rows: how many rows were compared.
        seconds: how long it took.
        incomplete: whether so many pairs look alike that only the likeliest ones were looked at closely.
        compared: what was looked at, in words.
        not_compared: what could not be, and why.
    """

    pairs: pd.DataFrame
    rows: int
    seconds: float
    incomplete: bool = False
    compared: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()


class Sides:
    """Where each row is used, and which pairs of rows must not know each other."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.side = rows[ROW_FOLD].to_numpy(np.int64)
        self.only = only_fold(rows).to_numpy()
        self.image = pd.factorize(rows[ROW_IMAGE])[0]
        self.source = rows[ROW_SOURCE].astype(str).to_numpy() if ROW_SOURCE in rows else np.full(len(rows), "")
        held_out = (self.side == TRAIN_ONLY) & (self.source == SOURCE_COMPETITION)
        self.has_folds = bool((self.side > 0).any() or held_out.any())  # before there are any, all rows lie in fold 0

    def leaks(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """bool: whether the rows at positions `a` and `b` may leak into each other; the arrays broadcast.

        Test rows must not know any training row, except that a row that only trains may be the very image, with a
        pseudo label. Two scored rows may know each other only if they share a fold. A row that only trains must not
        know a scored one, unless it does not train in the run that validates it.
        """
        side_a, side_b = self.side[a], self.side[b]
        pseudo = (self.image[a] == self.image[b]) & ((side_a == TRAIN_ONLY) | (side_b == TRAIN_ONLY))
        test = ((side_a == TEST) != (side_b == TEST)) & ~pseudo
        scored = (side_a >= 0) & (side_b >= 0) & (side_a != side_b)
        leaking: np.ndarray = test | scored | self._trains(a, b) | self._trains(b, a)
        return leaking

    def _trains(self, extra: np.ndarray, scored: np.ndarray) -> np.ndarray:
        only, fold = self.only[extra], self.side[scored]
        both = (self.side[extra] == TRAIN_ONLY) & (fold >= 0)
        leaking: np.ndarray = both & (np.isnan(only) | (only == fold))
        return leaking

    def name(self, row: int) -> str:
        """Where a row is used, in words."""
        side = self.side[row]
        if side >= 0:
            return f"fold {side}" if self.has_folds else "train"
        return "test" if side == TEST else f"{self.source[row]} (trains only)"

    def meetings(self, members: np.ndarray) -> list[str]:
        """Between which sides rows at these positions (bool) are compared, in words."""
        side = self.side[members]
        scored, extra, test = (side >= 0).any(), (side == TRAIN_ONLY).any(), (side == TEST).any()
        across = len(np.unique(side[side >= 0])) > 1
        found = [
            (across, "across folds"),
            (extra and scored, "between rows that only train and the others"),
            (test and (scored or extra), "across train and test"),
        ]
        return [words for is_compared, words in found if is_compared]


def all_rows(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Training rows with folds and test rows in one table, as `find_leaks` wants them."""
    return pd.concat([train, test.assign(**{ROW_FOLD: TEST})], ignore_index=True)


def find_leaks(rows: pd.DataFrame, looks: Sequence[Look], data: Path, reader: Reader) -> LeakReport:
    """Find pairs of rows that leak.

    Args:
        rows: of `all_rows`.
        looks: what `scan` saw of their images, in the same order. Unreadable images are left out.
        data: the folder that the image paths start from; pairs that look alike are read again.
    """
    began = time.perf_counter()
    sides = Sides(rows)
    found: list[tuple[str, int, int, float]] = []
    if ROW_GROUP in rows:
        trains = rows[rows[ROW_FOLD] != TEST]
        found += [("group", a, b, 0.0) for a, b in _same(trains[ROW_GROUP], sides)]
    digests = pd.Series([seen.digest or None for seen in looks], index=rows.index, dtype="str")
    found += [("identical", a, b, 0.0) for a, b in _same(digests, sides)]
    files = digests.to_numpy(object)
    thumbnails = np.stack([seen.thumbnail for seen in looks]) if looks else np.zeros((0, 1), np.float32)
    near, incomplete = near_pairs(thumbnails, lambda a, b: (files[a] != files[b]) & sides.leaks(a, b))
    if near:
        paths, cells, read = [data / path for path in rows[ROW_IMAGE]], Rows(rows, reader), row_reader(reader)
        copies = Copies(thumbnails, lambda row, size: read(paths[row], size, cells[row]))
        found += [("similar", a, b, distance) for a, b, distance in copies.find(near)]
    ids, images = rows[ROW_ID].to_numpy(object), rows[ROW_IMAGE].to_numpy(object)
    lines = [
        (kind, f"{sides.name(a)} and {sides.name(b)}", ids[a], ids[b], images[a], images[b], round(distance, 4))
        for kind, a, b, distance in found
    ]
    pairs = pd.DataFrame(lines, columns=list(COLUMNS))
    return LeakReport(pairs, len(rows), time.perf_counter() - began, incomplete, *_comparisons(rows, sides, looks))


def _comparisons(rows: pd.DataFrame, sides: Sides, looks: Sequence[Look]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was compared, and what could not be, in words."""
    compared, missing = [], []
    trains = sides.side != TEST
    if not sides.has_folds:
        missing.append("folds (none yet)")
    if not (sides.side == TEST).any():
        missing.append("train and test (no test rows)")
    if not trains.any():
        missing.append("train and test (no training rows)")
    if ROW_GROUP not in rows:
        missing.append("groups (no group column)")
    else:
        groups = sides.meetings(trains & rows[ROW_GROUP].notna().to_numpy())
        compared += [f"groups {words}" for words in groups]
        empty = int(rows[ROW_GROUP].isna().to_numpy()[trains].sum())
        if empty:
            missing.append(f"groups of {empty} rows (empty)")
    unread = np.array([bool(seen.fault) for seen in looks], bool)
    plain = np.array([not seen.thumbnail.any() for seen in looks], bool) & ~unread
    meetings = sides.meetings(~unread) if len(looks) else []
    compared += [f"images and copies of them {words}" for words in meetings]
    if unread.any():
        missing.append(f"{int(unread.sum())} images (unreadable)")
    if plain.any():
        missing.append(f"copies of {int(plain.sum())} images (without contrast)")
    missing += not_looked_for(int((~unread & ~plain).sum()))
    return tuple(compared), tuple(missing)


def _same(values: pd.Series, sides: Sides) -> list[tuple[int, int]]:
    """Pairs of positions that share a value and leak: every such row once at least, not all pairs of a large set."""
    pairs: set[tuple[int, int]] = set()
    shared = values[values.notna() & values.duplicated(keep=False)]
    for positions in shared.groupby(shared).indices.values():
        members = shared.index[positions].to_numpy()
        kept = pd.DataFrame({"side": sides.side[members], "only": sides.only[members]}).drop_duplicates().index
        first = members[kept]  # one for each place where such rows are used
        for member in members:
            partners = first[sides.leaks(np.array(member), first)]
            if len(partners):
                pairs.add((min(member, partners[0]), max(member, partners[0])))
    return sorted((int(a), int(b)) for a, b in pairs)


def print_leaks(report: LeakReport, most: int = 20) -> None:
    """Print the leaks, at most `most` of each kind, or one line that says what was compared."""
    out = console()
    if report.pairs.empty and report.compared:
        out.print(f"no leaks among {report.rows} rows; compared: {listed(report.compared, len(report.compared))}")
    elif report.pairs.empty:
        out.print(f"nothing could be compared among {report.rows} rows, so nothing is known about what leaks")
    for kind, pairs in report.pairs.groupby("kind", sort=False):
        shown = pairs.sort_values("distance").head(most)
        lines = [(row.where, row.id_a, row.id_b, row.distance) for row in shown.itertuples()]
        rest = f" (the first {most})" if len(pairs) > most else ""
        out.print(f"leaks, {kind}: {len(pairs)} pairs{rest}")
        table("", ("where", "id", "id", "distance"), lines)
    if report.incomplete:
        out.print("many images look alike: only the likeliest pairs were compared pixel by pixel")
    if report.not_compared:
        out.print(f"not compared: {listed(report.not_compared, len(report.not_compared))}")


def write_leaks(report: LeakReport, path: Path) -> bool:
    """Write the pairs as csv; where there are none, an old file is removed. Returns whether there is a file."""
    if report.pairs.empty:
        path.unlink(missing_ok=True)
        return False
    with atomic(path) as temporary:
        report.pairs.to_csv(temporary, index=False, lineterminator="\n")
    return True
