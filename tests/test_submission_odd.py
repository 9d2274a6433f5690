"""Samples of every form are recognised, and what is built passes; so does what is only odd. Masks, and formats of the
user's own, are refused for their own reasons."""

import re
from pathlib import Path

import pytest

from pipeline.submission_schema import OwnRules
from submission_forms import FORMS, OWN, Broken, Edit, lines, made, of_row, of_rows, refused, replaced, without


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_recognised_built_and_passes(name: str, tmp_path: Path) -> None:
    form = made(name)
    assert isinstance(form.rules, OwnRules) == (name in OWN)
    assert form.rules.described() or name in OWN
    assert list(form.built.columns) == list(form.sample.columns)
    assert form.rules.keys.texts(form.built).drop_duplicates().tolist() == list(
        form.rules.keys.texts(form.sample).drop_duplicates()
    )
    assert form.check(tmp_path, {}) == []
    cells = form.built.to_numpy().ravel()
    assert name == "a row for each head" or not any(re.fullmatch(r"0\.0*[1-9]\d{9,}", cell) for cell in cells)


BROKEN: dict[str, dict[str, Broken]] = {
    "masks": {
        "odd": ({"rle": "1 2 3"}, "mask", "x-1.: it holds 3 numbers, an odd count.*; write pairs of start and length"),
        "text": ({"rle": "1 x"}, "mask", "no whole number; write pairs"),
        "json": ({"rle": "[1, 2]"}, "mask", "no whole number; write pairs"),
        "floats": ({"rle": "1.0 3.0"}, "mask", "no whole number; write pairs"),
        "beyond": (
            {"rle": "600 40"},
            "mask",
            "ends 19 pixels beyond the image of 20 x 31.*; .*down the columns, first",
        ),
        "length 0": ({"rle": "4 0"}, "mask", "a run has the length 0; write pairs"),
        "from 0": ({"rle": "0 3"}, "mask", "starts at 0, and the first pixel is number 1; .*first pixel 1"),
        "negative": ({"rle": "5 -3"}, "mask", "a run has the length -3; write pairs"),
    },
    "masks of classes": {
        "class missing": (lines(lambda text: text[:-1]), "ids", "1 of 12 missing .x-1 / dog.; every id"),
        "class unknown": ({"class": "cow"}, "ids", "1 of 12 missing .x-1 / dog.; every id"),
    },
    "masks by id": {
        "mark": (replaced("x-1_dog", "x-1-dog"), "ids", "1 of 12 missing .x-1_dog.; every id"),
        "end": ({"Pixels": "620 2"}, "mask", "x-1_dog.: a run ends 1 pixels beyond .*; write pairs"),
    },
    "masks, wide": {"odd": ({"cat": "7"}, "mask", "x-1 cat.: it holds 1 numbers, an odd count.*; write pairs")},
    "ships": {
        "overlap": (
            lines(lambda text: [*text[:-1], "x-1,1 9\n", "x-1,5 9\n"]),
            "mask",
            "in 1 images .x-1. masks overlap; a",
        ),
        "image missing": (
            lines(lambda text: [row for row in text if "x-1" not in row]),
            "ids",
            "1 of 6 missing .x-1.;",
        ),
    },
    "own": {
        "infinite": ({"score": "inf"}, "finite", "column 'score' are infinite; look for an overflow .id x-1"),
        "blank": ({"score": ""}, "blank", "column 'score' are blank or NaN; fill every row .id x-1"),
        "id missing": (lines(lambda text: text[:-1]), "ids", "1 of 6 missing .x-1.; every"),
        "column missing": (without("note"), "columns", "1 missing .'note'.; the sample has"),
    },
    "own of several rows": {
        "image missing": (lines(lambda text: text[:-2]), "ids", "1 of 6 missing .x-1.; every"),
        "another image": (lambda text: text + "new,1 2 3 4,0.5\n", "ids", "1 not in the sample .new.; leave"),
    },
}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in BROKEN.items() for case in cases])
def test_what_graders_refuse_is_refused_for_its_own_reason(name: str, case: str, tmp_path: Path) -> None:
    refused(tmp_path, name, BROKEN[name][case])


ODD: dict[str, dict[str, tuple[Edit, str]]] = {
    "labels": {
        "quoted": (replaced("scan.png", '"scan.png"'), ""),
        "every cell quoted": (lambda text: re.sub(r"([^,\n]+)", r'"\1"', text), ""),
        "ends of lines of Windows": (replaced("\n", "\r\n"), ""),
        "no end of the last line": (str.strip, ""),
        "empty lines at the end": (lambda text: text + "\n\n", ""),
        "byte order mark": (lambda text: ("\ufeff" + text).encode(), "file"),
        "columns in another order": (lambda text: re.sub("(?m)^(.*),(.*)$", r"\2,\1", text), "columns"),
        "rows in another order": (lines(lambda text: text[:1] + text[:0:-1]), "order"),
        "one class for all": ({"label": lambda cell: "7"}, ""),
    },
    "probabilities": {
        "certain": (of_rows("1 0 0"), ""),
        "floats of zero and one": (of_rows("1.0 0.0 0.0"), ""),
        "exponents": (of_rows("1e-9 0.5 5E-1"), ""),
        "no zero before the point": (of_rows(".2 .3 .5"), ""),
        "spaces around": (of_row(" 0.2", "0.3 ", " 0.5 "), ""),
        "a sum that misses 1 by a little": (of_rows("0.333333 0.333333 0.333334"), ""),
    },
    "another column": {
        "logits that only rank": ({"cat": "-2.5"}, "range"),
        "another site": ({"site": "elsewhere"}, ""),
    },
    "lists": {
        "another order": ({"labels": "No Finding|ant"}, ""),
        "spaces around the mark": ({"labels": "ant | bee"}, ""),
    },
    "long": {"rows in another order": (lines(lambda text: text[:1] + text[:0:-1]), "order")},
    "long, two columns": {"certain": ({"p": "1"}, "")},
    "numbers": {
        "outside the limits": ({"age": "101"}, "range"),
        "whole": ({"age": "35"}, ""),
        "a sign": ({"age": "+35"}, ""),
    },
    "whales": {"fewer than five": ({"Id": "new_whale"}, ""), "two spaces": ({"Id": "w_1  w_2"}, "")},
    "top three": {"one": ({"label": "owl"}, "")},
    "masks": {
        "empty": ({"rle": ""}, ""),
        "another word for empty": ({"rle": "-"}, "mask"),
        "the whole image": ({"rle": "1 620"}, ""),
        "the last pixel": ({"rle": "620 1"}, ""),
        "not sorted": ({"rle": "9 2 1 2"}, "mask"),
        "runs that overlap": ({"rle": "1 5 3 4"}, "mask"),
    },
    "masks of classes": {"another height": ({"height": "1"}, ""), "classes overlap": ({"rle": "1 620"}, "mask")},
    "ships": {"few objects": (lines(lambda text: [*[row for row in text if "x-1" not in row], "x-1,620 1\n"]), "")},
    "own": {
        "text for a number": ({"score": "cat 0.5"}, "dtype"),
        "a blank beside text": ({"boxes": ""}, "blank"),
        "any number": ({"score": "-1e9"}, ""),
    },
    "own of several rows": {"another number of rows": (lambda text: text + "x-1,1 2 3 4,7\n", "")},
}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in ODD.items() for case in cases])
def test_what_graders_take_passes(name: str, case: str, tmp_path: Path) -> None:
    """With a warning of one kind where it is unusual."""
    edit, warning = ODD[name][case]
    problems = made(name).check(tmp_path, edit)
    assert all(problem.warning for problem in problems), problems
    assert {problem.kind for problem in problems} == ({warning} if warning else set())


def test_enough_is_tried() -> None:
    assert sum(map(len, BROKEN.values())) >= 20 and sum(map(len, ODD.values())) >= 30
