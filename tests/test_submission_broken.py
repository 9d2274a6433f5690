"""Submissions of images' labels and numbers that graders refuse: each is refused for its own reason, with a remedy."""

import gzip
import re
from pathlib import Path

import pytest

from submission_forms import Broken, lines, of_row, of_rows, read_and_written, refused, replaced, without, zipped

LABELS: dict[str, Broken] = {
    "empty file": (lambda text: "", "unreadable", "it is empty; 7 lines"),
    "spaces only": (lambda text: "  \n\n", "unreadable", "."),
    "header only": (lambda text: text.partition("\n")[0], "ids", "there is a header and no row; 6 rows"),
    "no header": (lambda text: text.partition("\n")[2], "unreadable", "the header is missing.*'image_id, label'"),
    "utf-16": (lambda text: text.encode("utf-16"), "unreadable", "line 1 is not text in UTF-8; .*encoding='utf-8'"),
    "latin-1": (lambda text: (text + "é,1").encode("latin-1"), "unreadable", "line 8 is not text in UTF-8"),
    "gzip": (lambda text: gzip.compress(text.encode()), "unreadable", "compressed by gzip; .*gunzip"),
    "zip": (zipped, "unreadable", "a zip archive or a workbook; check the csv in it"),
    "parquet": (lambda text: b"PAR1\0\0PAR1", "unreadable", "in parquet; write it with to_csv"),
    "quote not closed": (replaced("x-1", '"x-1'), "unreadable", "a quotation mark is not closed.*; close it"),
    "semicolons": (replaced(",", ";"), "file", "cells are separated by ';'; write commas"),
    "tabs": (replaced(",", "\t"), "file", "cells are separated by a tab; write commas"),
    "ragged": (
        replaced("scan.png,", "scan.png,1,"),
        "unreadable",
        "different numbers of cells.*line 5.*; quote commas",
    ),
    "index column": (read_and_written, "columns", "without a name is the DataFrame's index; write index=False"),
    "index column, read and written": (
        lambda text: "Unnamed: 0" + read_and_written(text),
        "columns",
        "'Unnamed: 0' is the DataFrame's index; write index=False",
    ),
    "column missing": (lambda text: re.sub(",.*", "", text), "columns", "1 missing .'label'.; the sample has"),
    "column renamed": (replaced("label", "Label"), "columns", "1 missing.*; 'label': did you mean 'Label'"),
    "column with a space": (replaced("label", "label "), "columns", "1 missing.*; 'label': did you mean 'label '"),
    "id column renamed": (replaced("image_id", "id"), "columns", "1 missing.*'image_id'"),
    "column too many": (
        lambda text: re.sub("(?m)$(?!\\Z)", ",x", text),
        "columns",
        "1 not in the sample.*; leave them out",
    ),
    "column twice": (lambda text: re.sub("(?m)(,.*)$", r"\1\1", text), "columns", "1 twice .label.; keep one"),
    "columns swapped": (replaced("image_id,label", "label,image_id"), "ids", "of 6 missing.*; every id of the sample"),
    "id missing": (lines(lambda text: text[:1] + text[2:]), "ids", "1 of 6 missing .00007.; every id"),
    "id too many": (lambda text: text + "new,1\n", "ids", "1 not in the sample .new.; leave"),
    "id twice": (lambda text: text + "00012,1\n", "ids", "1 more than once .00012.; write one row per id"),
    "id blank": (replaced("x-1", ""), "ids", "1 blank; every row needs one"),
    "ids without zeros": (replaced("0000", ""), "ids", "1 spelled otherwise .'7' for '00007'.; .*dtype=str"),
    "ids as floats": (replaced("00100", "100.0"), "ids", "1 spelled otherwise .'100.0' for '00100'.; write them as"),
    "ids without extension": (replaced("scan.png", "scan"), "ids", "spelled otherwise .'scan' for 'scan.png'.; write"),
    "ids with extension": (replaced("x-1", "x-1.jpg"), "ids", "spelled otherwise .'x-1.jpg' for 'x-1'.; write"),
    "ids with a folder": (replaced("x-1", "test/x-1"), "ids", "spelled otherwise .'test/x-1' for 'x-1'.; write"),
    "ids with spaces": (replaced("x-1", "x-1 "), "ids", "spelled otherwise .'x-1 ' for 'x-1'.; write"),
    "labels as floats": ({"label": "{}.0".format}, "dtype", "6 of 6 values .*written as floats.*; write 0, not 0.0"),
    "one label as float": ({"label": "3.0"}, "dtype", "1 of 6 values of column 'label'.*.3.0.; write 0, not 0.0"),
    "label between": ({"label": "2.5"}, "dtype", "are not whole numbers .2.5.; decide on a class"),
    "booleans": ({"label": "True"}, "dtype", "are booleans .True.; write the class names"),
    "label blank": ({"label": ""}, "blank", "1 of 6 values.*x-1.; fill every row"),
    "label nan": ({"label": "NaN"}, "blank", "1 of 6 values.*x-1.; fill every row"),
    "unknown label": ({"label": "11"}, "label", "none of the classes .11.; did you mean"),
    "label with a space": ({"label": " 3"}, "label", "by case or spaces.*; write the name exactly"),
    "probability for a label": ({"label": "0.93"}, "dtype", "not whole numbers.*; decide"),
}


OUTSIDE = r"are outside \[0, 1\].*; write probabilities, not logits or percentages"
BROKEN: dict[str, dict[str, Broken]] = {
    "labels": LABELS,
    "probabilities": {
        "four decimals": (of_rows("0.3333 0.3333 0.3333"), "sum", "6 of 6 rows.*; .*write all decimals"),
        "not normalised": (of_row("0.2", "0.3", "0.7"), "sum", "1 of 6 rows.*0.2 .*x-1.; divide each row by its sum"),
        "percent": (of_rows("20 30 50"), "range", "6 of 6 values of column 'cat' " + OUTSIDE),
        "logits": (of_rows("-2.5 0.3 4.1"), "range", "6 of 6 values of column 'owl' " + OUTSIDE),
        "negative": (of_row("-0.1", "0.6", "0.5"), "range", "1 of 6 values of column 'cat' " + OUTSIDE),
        "nan": (of_row("nan", "0.5", "0.5"), "blank", "1 of 6 values of column 'cat'.*; fill"),
        "blank": (of_row("", "0.5", "0.5"), "blank", "1 of 6 values of column 'cat'.*; fill"),
        "infinite": (of_row("0.5", "inf", "0.5"), "finite", "column 'dog' are infinite .*; look for a division"),
        "text": (of_row("0.2", "high", "0.5"), "dtype", "column 'dog' are text .*; write numbers"),
        "booleans": (of_rows("True False False"), "dtype", "column 'cat' are booleans .*; write numbers"),
        "decimal comma": (of_row("0,2", "0.3", "0.5"), "dtype", "have a decimal comma .*; write a decimal point"),
        "class missing": (without("owl"), "columns", "1 missing .'owl'.; the sample has"),
        "case of a class": (replaced("cat", "Cat"), "columns", "1 missing .'cat'.; 'cat': did you mean 'Cat'"),
        "Excel": (lambda text: text.replace(",", ";").replace(".", ","), "file", "separated by ';'; write commas"),
    },
    "lists": {
        "unknown label": (
            {"labels": "ant|wasp"},
            "label",
            "hold what is no label .wasp.; write labels exactly, divided by '|'",
        ),
        "separator of another": (
            {"labels": "ant bee"},
            "label",
            "no label .ant bee.; write labels exactly, divided by '|'",
        ),
        "a label twice": ({"labels": "ant|ant"}, "label", "name a label twice .*; name it once"),
        "none": ({"labels": ""}, "blank", "are blank or NaN .x-1.; fill"),
        "case": ({"labels": "No finding"}, "label", "no label .No finding.; .*did you mean 'No Finding'"),
    },
    "wide": {
        "logits": ({"bee": "3.2"}, "range", "column 'bee' " + OUTSIDE),
        "yes": ({"bee": "yes"}, "dtype", "are text where a number is expected .yes.; write numbers"),
        "label missing": (without("bee"), "columns", "1 missing .'bee'.; the sample has"),
        "label renamed": (replaced("No Finding", "No_Finding"), "columns", "did you mean 'No_Finding'"),
    },
    "decisions": {
        "probability": ({"ant": "0.7"}, "dtype", "are not whole numbers .0.7.; decide"),
        "float": ({"ant": "1.0"}, "dtype", "written as floats .1.0.; write 0, not 0.0"),
        "booleans": ({"ant": "True"}, "dtype", "are booleans .True.; write"),
        "two": ({"ant": "2"}, "label", "none of the classes .2.; known: 0, 1"),
    },
    "long": {
        "row missing": (lines(lambda text: text[:-1]), "ids", "1 of 18 missing .x-1_No Finding.; every id"),
        "row twice": (
            lines(lambda text: [*text, text[1]]),
            "ids",
            "1 more than once .00007_ant.; write one row per id",
        ),
        "other mark": (replaced("x-1_bee", "x-1-bee"), "ids", "1 of 18 missing .x-1_bee.; every id"),
        "unknown label": (replaced("x-1_bee", "x-1_wasp"), "ids", "1 not in the sample .x-1_wasp.; leave"),
        "no zeros": (replaced("00007_", "7_"), "ids", "3 of 18 missing .00007_ant.*; every id"),
        "percent": ({"Label": "93"}, "range", "1 of 18 values of column 'Label' " + OUTSIDE),
        "nan": ({"Label": "nan"}, "blank", "1 of 18 values of column 'Label' are blank or NaN .*; fill every row"),
        "decimal comma": ({"Label": "0,5"}, "dtype", "have a decimal comma .0,5.; write a decimal point"),
    },
    "long, two columns": {
        "row missing": (lines(lambda text: text[:-1]), "ids", "1 of 18 missing .x-1 / No Finding.; every id"),
        "row twice": (lines(lambda text: [*text, text[1]]), "ids", "1 more than once .00007 / ant.; write one row"),
        "unknown label": ({"finding": "wasp"}, "ids", "1 of 18 missing .x-1 / No Finding.; every"),
        "case": ({"finding": "no finding"}, "ids", "1 spelled otherwise .'x-1 / no finding' for .*; write them as"),
        "image missing": (lines(lambda text: text[:-3]), "ids", "1 of 6 missing .x-1.; every id"),
        "logit": ({"p": "-1.5"}, "range", "1 of 18 values of column 'p' " + OUTSIDE),
    },
    "long decisions": {"probability": ({"is": "0.5"}, "dtype", "1 of 18 .* not whole numbers .0.5.; decide")},
    "numbers": {
        "text": ({"age": "old"}, "dtype", "are text where a number is expected .old.; write numbers"),
        "blank": ({"age": ""}, "blank", "are blank or NaN .x-1.; fill every row"),
        "infinite": ({"age": "-inf"}, "finite", "are infinite .-inf.; look for"),
        "decimal comma": ({"age": "1,5"}, "dtype", "have a decimal comma .1,5.; write a decimal point"),
        "unit": ({"age": "35 years"}, "dtype", "are text .*35 years.; write numbers"),
    },
    "grades": {
        "number": ({"grade": "1.4"}, "dtype", "are not whole numbers .1.4.; decide on a class; kappa"),
        "float": ({"grade": "2.0"}, "dtype", "written as floats .2.0.; write 0, not 0.0"),
        "beyond": ({"grade": "3"}, "label", "none of the classes .3.; known: 0, 1, 2"),
    },
    "several heads": {
        "number for a label": ({"sex": "1"}, "label", "column 'sex' are none of the classes .1.; known: f, m"),
        "label for a number": ({"age": "m"}, "dtype", "column 'age' are text .*; write numbers"),
        "column of the sample missing": (without("batch"), "columns", "1 missing .'batch'.; the sample has"),
    },
    "a row for each head": {
        "label in another's row": ({"target": "f"}, "dtype", "1 of 6 values of column 'target' are text .*f.; write"),
        "row missing": (lines(lambda text: text[:-1]), "ids", "1 of 12 missing .x-1_age.; every id"),
    },
    "probabilities beside a number": {"logit": ({"f": "1.7"}, "range", "column 'f' " + OUTSIDE.replace("are", "are"))},
    "top three": {"four": ({"label": "cat dog owl cat"}, "label", "name a label twice .*; name it once")},
    "whales": {
        "unknown": ({"Id": "w_1 w_9"}, "label", "hold what is no label .w_9.; write labels exactly, divided by spaces"),
        "case": ({"Id": "New_Whale w_1"}, "label", "no label .New_Whale.; .*did you mean 'new_whale'"),
        "commas": ({"Id": "w_1,w_2"}, "label", "no label .w_1,w_2.; write labels exactly, divided by spaces"),
        "twice": ({"Id": "w_1 w_2 w_1"}, "label", "name a label twice .*; name it once"),
        "six": ({"Id": "w_1 w_2 w_3 w_4 w_5 new_whale"}, "label", "hold more than 5 labels .*; write the best ones"),
        "list": ({"Id": "['w_1', 'w_2']"}, "label", "no label .*; write labels exactly, divided by spaces"),
        "blank": ({"Id": " "}, "blank", "are blank or NaN .x-1.; fill every row"),
    },
    "best whale": {
        "without a score": ({"whale": "w_1"}, "label", "are not a label and its score .w_1.; write both"),
        "score first": ({"whale": "0.5 w_1"}, "label", "are not a label and its score .*; write both"),
        "unknown": ({"whale": "w_8 0.5"}, "label", "no label .w_8.; write labels exactly"),
    },
}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in BROKEN.items() for case in cases])
def test_what_graders_refuse_is_refused_for_its_own_reason(name: str, case: str, tmp_path: Path) -> None:
    refused(tmp_path, name, BROKEN[name][case])


def test_enough_is_tried() -> None:
    assert sum(map(len, BROKEN.values())) >= 90
