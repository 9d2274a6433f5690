"""Rows that know each other across folds, or across train and test: shared groups, identical files, near-duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.folds import only_fold
from pipeline.keys import ROW_FOLD, ROW_GROUP, ROW_ID, ROW_IMAGE, ROW_SOURCE, SOURCE_COMPETITION
from toolkit.audit.near_copies import Copies, near_pairs, not_looked_for
from toolkit.audit.scan import Look
from toolkit.files import atomic
from toolkit.images.readers import Reader, Rows, row_reader
from toolkit.terminal import table

TEST, TRAIN_ONLY = -2, -1  # where a row is used, if not in a fold
MOST_PRINTED = 20  # pairs of each kind
COLUMNS = ["kind", "where", "id_a", "id_b", "image_a", "image_b", "distance"]


@dataclass(frozen=True)
class LeakReport:
    """Pairs of rows that leak, and what was compared of how many rows, in words."""

    pairs: pd.DataFrame  # with the columns of `COLUMNS`; `kind` is `group`, `identical` or `similar`
    rows: int
    compared: Sequence[str]
    not_compared: Sequence[str]


class Uses:
    """Where each row is used, and which pairs of rows must not know each other."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.fold = rows[ROW_FOLD].to_numpy(np.int64)  # or `TEST`, or `TRAIN_ONLY`
        self.only_fold = only_fold(rows).to_numpy()
        self.image = pd.factorize(rows[ROW_IMAGE])[0]
        self.source = rows[ROW_SOURCE].astype(str).to_numpy() if ROW_SOURCE in rows else np.full(len(rows), "")
        held_out = (self.fold == TRAIN_ONLY) & (self.source == SOURCE_COMPETITION)
        self.has_folds = bool((self.fold > 0).any() or held_out.any())  # before there are any, all rows lie in fold 0

    def leaks(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """bool: whether the rows at positions `a` and `b` may leak into each other; the arrays broadcast.

        Test rows must not know a training row, but for a pseudo label of the very image; scored rows only know those of
        their fold; a row that only trains knows none that is validated in a run that it trains in.
        """
        fold_a, fold_b = self.fold[a], self.fold[b]
        leaking: np.ndarray = (fold_a >= 0) & (fold_b >= 0) & (fold_a != fold_b)
        pseudo = (self.image[a] == self.image[b]) & ((fold_a == TRAIN_ONLY) | (fold_b == TRAIN_ONLY))
        leaking |= ((fold_a == TEST) != (fold_b == TEST)) & ~pseudo
        for extra, fold in ((a, fold_b), (b, fold_a)):
            only = self.only_fold[extra]
            leaking |= (self.fold[extra] == TRAIN_ONLY) & (fold >= 0) & (np.isnan(only) | (only == fold))
        return leaking

    def name(self, row: int) -> str:
        """Where a row is used, in words."""
        fold = self.fold[row]
        if fold >= 0:
            return f"fold {fold}" if self.has_folds else "train"
        return "test" if fold == TEST else f"{self.source[row]} (trains only)"

    def comparisons(self, compared: np.ndarray) -> list[str]:
        """Between which uses the rows (bool) are compared, in words."""
        fold = self.fold[compared]
        scored, extra, test = (fold >= 0).any(), (fold == TRAIN_ONLY).any(), (fold == TEST).any()
        found = ["across folds"] if len(np.unique(fold[fold >= 0])) > 1 else []
        found += ["between rows that only train and the others"] if extra and scored else []
        return found + (["across train and test"] if test and (scored or extra) else [])

    def same(self, values: pd.Series) -> list[tuple[int, int]]:
        """Pairs of rows that share a value and leak: each such row once at least, not all pairs of a large set.

        Args:
            values: with the positions of the rows as index.
        """
        rows = values.index.to_numpy()
        uses = {"fold": self.fold[rows], "only": self.only_fold[rows]}
        frame = pd.DataFrame({"value": values, "row": rows, **uses}).dropna(subset="value")
        first = frame.drop_duplicates(["value", *uses])[["value", "row"]]  # one for each use
        pairs = frame.merge(first, on="value")[["row_x", "row_y"]].to_numpy()
        pairs = pairs[self.leaks(*pairs.T)]
        _, once = np.unique(pairs[:, 0], return_index=True)
        return sorted({(int(a), int(b)) for a, b in np.sort(pairs[once], axis=1)})


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
    uses = Uses(rows)
    digests = pd.Series([look.digest or None for look in looks], index=rows.index, dtype="str")
    groups = rows[ROW_GROUP][rows[ROW_FOLD] != TEST] if ROW_GROUP in rows else digests[:0]
    found = [("group", *pair, 0.0) for pair in uses.same(groups)]
    found += [("identical", *pair, 0.0) for pair in uses.same(digests)]
    files = digests.to_numpy(object)
    thumbnails = np.stack([look.thumbnail for look in looks]) if looks else np.zeros((0, 1), np.float32)
    near, incomplete = near_pairs(thumbnails, lambda a, b: (files[a] != files[b]) & uses.leaks(a, b))
    if near:
        paths, cells, read = [data / path for path in rows[ROW_IMAGE]], Rows(rows, reader), row_reader(reader)
        copies = Copies(thumbnails, lambda row, size: read(paths[row], size, cells[row]))
        found += [("similar", *copy) for copy in copies.find(near)]
    ids, images = rows[ROW_ID].to_numpy(object), rows[ROW_IMAGE].to_numpy(object)
    lines = [
        (kind, f"{uses.name(a)} and {uses.name(b)}", ids[a], ids[b], images[a], images[b], round(distance, 4))
        for kind, a, b, distance in found
    ]
    compared, not_compared = _compared(rows, uses, looks)
    not_compared += ["pairs of images beyond the likeliest, as many look alike"] if incomplete else []
    return LeakReport(pd.DataFrame(lines, columns=COLUMNS), len(rows), compared, not_compared)


def _compared(rows: pd.DataFrame, uses: Uses, looks: Sequence[Look]) -> tuple[list[str], list[str]]:
    """What was compared, and what could not be, in words."""
    is_test, unread = uses.fold == TEST, np.array([bool(look.fault) for look in looks], bool)
    plain = np.array([not look.thumbnail.any() for look in looks], bool) & ~unread
    compared = [f"groups {words}" for words in uses.comparisons(~is_test) if ROW_GROUP in rows]
    compared += [f"images and copies of them {words}" for words in uses.comparisons(~unread)]
    missing = {
        "folds (none yet)": not uses.has_folds,
        "train and test (no test rows)": not is_test.any(),
        "groups (no group column)": ROW_GROUP not in rows,
        f"{unread.sum()} images (unreadable)": unread.any(),
        f"copies of {plain.sum()} images (without contrast)": plain.any(),
    }
    not_compared = [text for text, holds in missing.items() if holds]
    return compared, not_compared + not_looked_for(int((~unread & ~plain).sum()))


def print_leaks(report: LeakReport) -> None:
    """Print the leaks, the nearest of each kind, and what was compared."""
    if report.pairs.empty and report.compared:
        print(f"no leaks among {report.rows} rows; compared: {', '.join(report.compared)}")
    elif report.pairs.empty:
        print(f"nothing could be compared among {report.rows} rows, so nothing is known about what leaks")
    for kind, pairs in report.pairs.groupby("kind", sort=False):
        rest = f" (the first {MOST_PRINTED})" if len(pairs) > MOST_PRINTED else ""
        nearest = pairs.sort_values("distance").head(MOST_PRINTED)[["where", "id_a", "id_b", "distance"]]
        columns, lines = ("where", "id", "id", "distance"), nearest.itertuples(index=False)
        table(f"leaks, {kind}: {len(pairs)} pairs{rest}", columns, lines)
    if report.not_compared:
        print(f"not compared: {', '.join(report.not_compared)}")


def write_leaks(report: LeakReport, path: Path) -> bool:
    """Write the pairs as csv; where there are none, an old file is removed. Returns whether there is a file."""
    if report.pairs.empty:
        path.unlink(missing_ok=True)
    else:
        with atomic(path) as temporary:
            report.pairs.to_csv(temporary, index=False, lineterminator="\n")
    return not report.pairs.empty
