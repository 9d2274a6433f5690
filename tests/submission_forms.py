"""Sample submissions of every form, each with a submission of random predictions, in process."""

import io
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.competition import Competition, Head
from pipeline.heads.base import kind_of
from pipeline.heads.mask_decoding import columns as mask_columns
from pipeline.heads.submission_columns import submission_table
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings
from pipeline.submission.build import as_text, expected_rows, fill
from pipeline.submission.check import check
from pipeline.submission_schema import OwnRules, Problem, Rules
from pipeline.tasks import task_for
from pipeline.tasks.segmentation import submission as masks
from toolkit.masks.maps import encode_mask

PACKAGE = "a_competition_of_these_tests"
IDS = ("00007", "00012", "img.v2.3", "scan.png", "00100", "x-1")
SIZE = (20, 31)
DIGITS = Head("label", "multiclass", tuple(map(str, range(10))))
ANIMALS = Head("label", "multiclass", ("cat", "dog", "owl"))
FINDINGS = Head("labels", "multilabel", ("ant", "bee", "No Finding"))
AGE = Head("age", "regression", limits=(0, 100))
SEX = Head("sex", "multiclass", ("f", "m"))
WHALE = Head("whale", "embedding", ("w_1", "w_2", "w_3", "w_4", "w_5"), unknown="new_whale")
SHIP, PETS = Head("mask", "mask", ("ship",)), Head("mask", "multiclass_mask", ("cat", "dog"))


@dataclass(frozen=True)
class Form:
    """A sample submission, what is predicted, and the metric of its grader."""

    columns: Mapping[str, Any]  # of the sample, beside the ids
    heads: tuple[Head, ...]
    metric: str = "accuracy"
    ids: tuple[str, ...] = IDS
    id_column: str = "image_id"

    @property
    def sample(self) -> pd.DataFrame:
        return pd.DataFrame({self.id_column: list(self.ids), **self.columns}, dtype="str")


def pairs(names: tuple[str, ...], mark: str = "_") -> tuple[str, ...]:
    return tuple(f"{row}{mark}{name}" for row in IDS for name in names)


TWICE = tuple(row for row in IDS for _ in range(2))
THRICE = tuple(row for row in IDS for _ in range(3))
FORMS = {
    "labels": Form({"label": "0"}, (DIGITS,)),
    "probabilities": Form(dict.fromkeys(ANIMALS.classes, "0.3"), (ANIMALS,), "log_loss"),
    "another column": Form({"owl": "0", "dog": "0", "cat": "0", "site": list("aabbcc")}, (ANIMALS,), "pr_auc"),
    "top three": Form({"label": "cat dog owl"}, (ANIMALS,), "map_at_3"),
    "lists": Form({"labels": "ant|No Finding"}, (FINDINGS,), "f1_samples"),
    "wide": Form(dict.fromkeys(FINDINGS.classes, "0.5"), (FINDINGS,), "roc_auc"),
    "decisions": Form(dict.fromkeys(FINDINGS.classes, "0"), (FINDINGS,), "f1_macro"),
    "long": Form({"Label": "0.5"}, (FINDINGS,), "roc_auc", pairs(FINDINGS.classes), "ID"),
    "long, two columns": Form({"finding": [*FINDINGS.classes] * 6, "p": "0"}, (FINDINGS,), "log_loss", THRICE),
    "long decisions": Form({"finding": [*FINDINGS.classes] * 6, "is": "0"}, (FINDINGS,), "f1_macro", THRICE),
    "numbers": Form({"age": "0"}, (AGE,), "rmse"),
    "grades": Form({"grade": "0"}, (Head("grade", "ordinal", ("0", "1", "2")),), "quadratic_weighted_kappa"),
    "several heads": Form({"sex": "f", "age": "0", "batch": "7"}, (AGE, SEX)),
    "a row for each head": Form({"target": "0"}, (AGE, SEX), ids=pairs(("sex", "age"))),
    "probabilities beside a number": Form({"f": "0", "age": "0", "m": "0"}, (AGE, SEX), "roc_auc"),
    "whales": Form({"Id": "new_whale w_1"}, (WHALE,), "map_at_5"),
    "best whale": Form({"whale": "w_1 0.5"}, (WHALE,), "gap"),
    "masks": Form({"rle": ""}, (SHIP,)),
    "masks of classes": Form({"class": ["cat", "dog"] * 6, "rle": "1 1", "height": "512"}, (PETS,), ids=TWICE),
    "masks by id": Form({"Pixels": ["1 1", "-"] * 6}, (PETS,), ids=pairs(PETS.classes)),
    "masks, wide": Form({"dog": "", "cat": "", "site": "a"}, (PETS,)),
    "ships": Form({"rle": "1 1"}, (SHIP,), ids=TWICE),
    "own": Form({"score": "0", "boxes": "0.5 0 0 9 9", "note": ["", *"abcde"]}, (ANIMALS,)),
    "own of several rows": Form({"box": "1 2 3 4", "score": "0.5"}, (ANIMALS,), "log_loss", TWICE),
    "own masks": Form({"x": "", "y": "", "z": ""}, (PETS,)),
    "boxes": Form({"PredictionString": "0.5 0 0 100 100"}, (ANIMALS,)),
}
OWN = ("own", "own of several rows", "boxes", "own masks")


Edit = Mapping[str, str | Callable[[str], str]] | Callable[[str], str | bytes]


Broken = tuple[Edit, str, str]  # the edit, the kind of the problem, an expression of its reason and remedy


class Made:
    """A form with its rules, and a submission of random predictions."""

    def __init__(self, name: str) -> None:
        form = FORMS[name]
        self.form, self.sample, self.metric = form, form.sample, find_metric(form.metric)
        competition = Competition(
            Settings.model_construct(), PACKAGE, parts={"metric:metrics": lambda settings: [self.metric]}
        )
        self.task = task_for(competition, form.heads)
        images: Any = dict.fromkeys(IDS, SIZE)
        self.rules: Rules = self.task.submission.rules(self.sample, self.metric, images)
        self.expected = expected_rows(self.sample, pd.Series(IDS), self.rules.keys)

    def predictions(self) -> pd.DataFrame:
        generator, found = np.random.default_rng(0), {}
        for head in self.form.heads:
            if head.kind in ("mask", "multiclass_mask"):
                labels = generator.integers(0, 3, (len(IDS), *SIZE)) * (np.arange(len(IDS)) != 1)[:, None, None]
                for number, name in enumerate(mask_columns(head)):
                    found[name] = [encode_mask(label == number + 1) for label in labels]
                continue
            kind = kind_of(head)
            drawn = generator.normal(20, 5, (len(IDS), kind.width))
            found |= kind.columns.table(kind.decode(torch.from_numpy(drawn)))
        return pd.DataFrame(found, index=pd.Index(list(IDS[::-1]), name="id", dtype="str"))

    @cached_property
    def built(self) -> pd.DataFrame:
        """The submission as text; of a format that nobody knows the sample."""
        if isinstance(self.rules, OwnRules):
            return self.sample
        table_of = masks.submission_table if "mask" in self.form.heads[0].kind else submission_table
        arguments = () if table_of is masks.submission_table else (self.metric,)
        table = table_of(self.sample, self.predictions(), self.form.heads, *arguments, "image_id")
        return as_text(fill(self.expected, table, self.rules.keys))

    def edited(self, edit: Edit) -> str | bytes:
        """The file after an edit: of its text, or of cells by column, in the last row or, by a function, in all."""
        table = self.built.copy()
        for name, cell in edit.items() if isinstance(edit, Mapping) else ():
            table[name] = table[name].map(cell) if callable(cell) else [*table[name][:-1], cell]
        text = table.to_csv(index=False, lineterminator="\n")
        return edit(text) if callable(edit) else text

    def check(self, folder: Path, edit: Edit) -> list[Problem]:
        text = self.edited(edit)
        (folder / "other.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        return check(folder / "other.csv", self.expected, self.rules)


made = cache(Made)
# What the task of masks reads of a competition.
sys.modules.update({f"{PACKAGE}.{name}": ModuleType(name) for name in ("submission", "targets")})


def refused(folder: Path, name: str, case: Broken) -> None:
    """Assert that the form's file is refused after an edit, for a reason of this kind, whose text has a remedy."""
    edit, kind, reason = case
    problems = made(name).check(folder, edit)
    found = [problem.text for problem in problems if problem.kind == kind and not problem.warning]
    assert any(re.search(reason, text) and "; " in text for text in found), problems


def replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    return lambda text: "".join(change(text.splitlines(keepends=True)))


def zipped(text: str) -> bytes:
    with zipfile.ZipFile(raw := io.BytesIO(), "w") as archive:
        archive.writestr("other.csv", text)
    return raw.getvalue()


def read_and_written(text: str) -> str:
    return pd.read_csv(io.StringIO(text), dtype=str).to_csv()


def without(column: str) -> Callable[[str], str]:
    return lambda text: pd.read_csv(io.StringIO(text), dtype=str).drop(columns=column).to_csv(index=False)


def of_row(*cells: str) -> Edit:
    return dict(zip(("cat", "dog", "owl"), cells, strict=True))


def of_rows(text: str) -> Edit:
    return {name: lambda _, cell=cell: cell for name, cell in zip(("cat", "dog", "owl"), text.split(), strict=True)}
