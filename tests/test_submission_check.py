"""Submissions that Kaggle would refuse, each refused for the right reason by the script; and good ones that pass."""

import io
from pathlib import Path

import pandas as pd
import pytest

from house_prices import CLASS_HEADER, IDS, THREE, House, csv, make_house, refused
from projects import Renders


@pytest.fixture(scope="module")
def of_labels(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> House:
    return make_house(renders, tmp_path_factory.mktemp("labels") / "project")


@pytest.fixture(scope="module")
def of_probabilities(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("probabilities") / "project"
    return make_house(renders, folder, "log_loss", THREE, CLASS_HEADER.split(","))


GOOD = {name: str(number) for number, name in enumerate(IDS)}
CERTAIN = dict.fromkeys(IDS, "0.2,0.3,0.5")


def changed(key: str, value: str) -> str:
    return csv({**GOOD, key: value})


def renamed(old: str, new: str) -> str:
    return csv({(new if name == old else name): value for name, value in GOOD.items()})


BAD_LABELS = {
    "empty file": ("", "unreadable: it is empty"),
    "header only": ("image_id,label\n", "ids: there is a header and no row; 6 rows"),
    "no header": (csv(GOOD).partition("\n")[2], "unreadable: the header is missing.*'image_id, label'"),
    "utf-16": (csv(GOOD).encode("utf-16"), "unreadable: line 1 is not text in UTF-8"),
    "latin-1": (changed("x-1", "é").encode("latin-1"), "unreadable: line 7 is not text in UTF-8"),
    "semicolons": (csv(GOOD).replace(",", ";"), "file: cells are separated by ';'"),
    "tabs": (csv(GOOD).replace(",", "\t"), "file: cells are separated by a tab"),
    "ragged": (changed("scan.png", "3,4"), "unreadable: the rows have different numbers of cells.*line 5"),
    "index column": (
        pd.DataFrame({"image_id": GOOD.keys(), "label": GOOD.values()}).to_csv(),
        "columns: the first column without a name is the DataFrame's index; write index=False",
    ),
    "index column, read and written": (
        ",".join(["Unnamed: 0", *csv(GOOD).splitlines(keepends=True)]).replace("\n,", "\n0,"),
        "columns: the first column 'Unnamed: 0' is the DataFrame's index",
    ),
    "column missing": (csv(dict.fromkeys(IDS, "1")).replace(",label", "").replace(",1", ""), "columns: 1 missing"),
    "column renamed": (csv(GOOD, "image_id,Label"), "columns: 1 missing.*did you mean 'Label'"),
    "id column renamed": (csv(GOOD, "id,label"), "columns: 1 missing.*'image_id'"),
    "column too many": (
        csv({name: f"{value},x" for name, value in GOOD.items()}, "image_id,label,note"),
        "columns: 1 not in the sample.*'note'.*leave them out",
    ),
    "column twice": (
        csv({name: f"{value},1" for name, value in GOOD.items()}, "image_id,label,label"),
        "columns: 1 twice .label.",
    ),
    "id missing": (csv(dict.fromkeys(IDS[1:], "1")), "ids: 1 of 6 missing .00007."),
    "id too many": (csv({**GOOD, "new": "1"}), "ids: 1 not in the sample .new.; leave"),
    "id twice": (csv(GOOD) + "00012,1\n", "ids: 1 more than once .00012.; write one row per id"),
    "id blank": (renamed("x-1", ""), "ids: 1 blank"),
    "ids without zeros": (
        csv({name.lstrip("0"): "1" for name in IDS}),
        "ids: 3 spelled otherwise .'7' for '00007'.*dtype=str",
    ),
    "ids as floats": (renamed("00100", "100.0"), "ids: 1 spelled otherwise .'100.0' for '00100'"),
    "ids without extension": (renamed("scan.png", "scan"), "ids: 1 spelled otherwise .'scan' for 'scan.png'"),
    "ids with extension": (renamed("x-1", "x-1.jpg"), "ids: 1 spelled otherwise .'x-1.jpg' for 'x-1'"),
    "ids with a folder": (renamed("x-1", "test/x-1"), "ids: 1 spelled otherwise .'test/x-1' for 'x-1'"),
    "labels as floats": (
        csv({name: f"{value}.0" for name, value in GOOD.items()}),
        "dtype: 6 of 6 values .*written as floats",
    ),
    "one label as float": (changed("x-1", "3.0"), "dtype: 1 of 6 values of column 'label'.*.3.0.; write 0, not 0.0"),
    "label between": (changed("x-1", "2.5"), "dtype: 1 of 6 values of column 'label' are not whole numbers"),
    "booleans": (changed("x-1", "True"), "dtype: 1 of 6 values of column 'label' are booleans"),
    "label blank": (changed("x-1", ""), "blank: 1 of 6 values.*x-1"),
    "label nan": (changed("x-1", "NaN"), "blank: 1 of 6 values.*x-1"),
    "unknown label": (
        changed("x-1", "11"),
        "label: 1 of 6 values of column 'label' are none of the classes .11.; did you mean",
    ),
    "label with a space": (changed("x-1", " 3"), "label: 1 of 6 values.*by case or spaces"),
}


def test_after_an_unreadable_file_nothing_else_is_called_ok(of_labels: House) -> None:
    stdout = of_labels.check("").stdout
    assert stdout.count("not checked") == 3 and "ok" not in stdout


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels_are_refused(of_labels: House, name: str) -> None:
    text, reason = BAD_LABELS[name]
    refused(of_labels.check(text), reason)


def test_good_labels_pass(of_labels: House) -> None:
    for text in (csv(GOOD), csv(GOOD, end="\r\n"), csv(GOOD).strip(), csv(GOOD).replace("scan.png", '"scan.png"')):
        result = of_labels.check(text)
        assert (result.status, result.stderr) == (0, ""), result
        assert "warning" not in result.stdout


UNUSUAL = {
    "byte order mark": (b"\xef\xbb\xbf" + csv(GOOD).encode(), "warning, file: it starts with a byte order mark"),
    "column order": (
        "label,image_id\n" + "".join(f"{value},{name}\n" for name, value in GOOD.items()),
        "warning, columns: their order is label, image_id; the sample's is image_id, label",
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_graders_take_is_a_warning(of_labels: House, name: str) -> None:
    text, reason = UNUSUAL[name]
    result = of_labels.check(text)
    assert result.status == 0 and "refused" not in result.stderr and reason in result.stdout
    graded = pd.read_csv(io.BytesIO(text if isinstance(text, bytes) else text.encode()), dtype=str)
    assert graded.set_index("image_id")["label"].to_dict() == GOOD, "as graders read it"


@pytest.mark.parametrize(("metric", "status"), [("roc_auc", 2), ("pr_auc", 0), ("accuracy", 0)])
def test_numbers_that_only_rank_may_be_any(renders: Renders, tmp_path: Path, metric: str, status: int) -> None:
    house = make_house(renders, tmp_path / "project", metric, THREE, CLASS_HEADER.split(","))
    result = house.check(csv({**CERTAIN, "x-1": "-2.5,0.3,4"}, CLASS_HEADER))
    assert result.status == status and "range: 1 of 6 values of column 'cat' are outside [0, 1]" in result.stdout


def test_another_order_of_rows_is_a_warning(of_labels: House) -> None:
    result = of_labels.check(csv(dict(reversed(GOOD.items()))))
    assert result.status == 0
    assert "warning, order: the rows differ from the sample's order from row 1 on" in result.stdout


def test_the_check_needs_no_run(of_labels: House) -> None:
    path = of_labels.root / "other.csv"
    path.write_text(changed("x-1", "11"))
    for args in (("--check", "other.csv"), ("nothing", "--check", "other.csv")):
        refused(of_labels.submit(*args), "label: 1 of 6 values.*none of the classes")
    classes = of_labels.root / "folds" / "classes.json"
    kept = classes.read_text()
    classes.unlink()
    try:
        # Without folds the classes are those of the training table.
        pd.DataFrame({"image_id": ["a", "b"], "label": ["7", "11"]}).to_csv(of_labels.raw / "train.csv", index=False)
        refused(of_labels.submit("--check", "other.csv"), "label: 5 of 6 values.*none of the classes")
    finally:
        classes.write_text(kept)


BAD_PROBABILITIES = {
    "four decimals": (dict.fromkeys(IDS, "0.3333,0.3333,0.3333"), "sum: 6 of 6 rows.*write all decimals"),
    "not normalised": ({**CERTAIN, "x-1": "0.2,0.3,0.7"}, "sum: 1 of 6 rows.*0.2 .*x-1.*divide each row by its sum"),
    "percent": (dict.fromkeys(IDS, "20,30,50"), r"range: 6 of 6 values of column 'cat' are outside \[0, 1\]"),
    "negative": ({**CERTAIN, "x-1": "-0.1,0.6,0.5"}, "range: 1 of 6 values of column 'cat'"),
    "nan": ({**CERTAIN, "x-1": "nan,0.5,0.5"}, "blank: 1 of 6 values of column 'cat'"),
    "blank": ({**CERTAIN, "x-1": ",0.5,0.5"}, "blank: 1 of 6 values of column 'cat'"),
    "infinite": ({**CERTAIN, "x-1": "0.5,inf,0.5"}, "finite: 1 of 6 values of column 'dog'"),
    "text": ({**CERTAIN, "x-1": "0.2,high,0.5"}, "dtype: 1 of 6 values of column 'dog' are text"),
    "boolean": (dict.fromkeys(IDS, "True,False,False"), "dtype: 6 of 6 values of column 'cat' are booleans"),
    "decimal comma": ({**CERTAIN, "x-1": '"0,2",0.3,0.5'}, "dtype: 1 of 6 values of column 'cat' have a decimal comma"),
}


@pytest.mark.parametrize("name", BAD_PROBABILITIES)
def test_bad_probabilities_are_refused(of_probabilities: House, name: str) -> None:
    rows, reason = BAD_PROBABILITIES[name]
    refused(of_probabilities.check(csv(rows, CLASS_HEADER)), reason)


def test_good_probabilities_pass(of_probabilities: House) -> None:
    for row in ("0.2,0.3,0.5", "0.333333,0.333333,0.333334", "1,0,0", "1e-9,0.5,0.5", "1.0,0.0,0.0"):
        assert of_probabilities.check(csv(dict.fromkeys(IDS, row), CLASS_HEADER)).status == 0, row


def test_kappa_wants_whole_numbers(renders: Renders, tmp_path: Path) -> None:
    house = make_house(
        renders, tmp_path / "project", "quadratic_weighted_kappa", {"grade": ["0", "1", "2"]}, ("image_id", "grade")
    )
    refused(
        house.check(csv({**dict.fromkeys(IDS, "1"), "x-1": "1.4"}, "image_id,grade")), "dtype.*not whole numbers.*kappa"
    )
    assert house.check(csv(dict.fromkeys(IDS, "2"), "image_id,grade")).status == 0
