"""The check of a file by the script: what it prints, and what it needs; `test_submission_broken` has each reason."""

import io

import pandas as pd
import pytest

from house_prices import IDS, House, csv, make_house, refused
from projects import Renders


@pytest.fixture(scope="module")
def of_labels(renders: Renders, tmp_path_factory: pytest.TempPathFactory) -> House:
    return make_house(renders, tmp_path_factory.mktemp("labels") / "project")


GOOD = {name: str(number) for number, name in enumerate(IDS)}


def changed(key: str, value: str) -> str:
    return csv({**GOOD, key: value})


BAD = {
    "semicolons": (csv(GOOD).replace(",", ";"), "file: cells are separated by ';'"),
    "id missing": (csv(dict.fromkeys(IDS[1:], "1")), "ids: 1 of 6 missing .00007."),
    "unknown label": (changed("x-1", "11"), "label: 1 of 6 values of column 'label' are none of the classes .11."),
}


def test_after_an_unreadable_file_nothing_else_is_called_ok(of_labels: House) -> None:
    stdout = of_labels.check("").stdout
    assert stdout.count("not checked") == 3 and "ok" not in stdout


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(of_labels: House, name: str) -> None:
    text, reason = BAD[name]
    refused(of_labels.check(text), reason)


def test_a_good_file_passes(of_labels: House) -> None:
    result = of_labels.check(csv(GOOD, end="\r\n").replace("scan.png", '"scan.png"').strip())
    assert (result.status, result.stderr) == (0, ""), result
    assert "warning" not in result.stdout


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + csv(GOOD).encode(),
        ("label,image_id\n" + "".join(f"{value},{name}\n" for name, value in GOOD.items())).encode(),
    ],
)
def test_what_is_a_warning_reads_the_same(text: bytes) -> None:
    """As graders read it."""
    assert pd.read_csv(io.BytesIO(text), dtype=str).set_index("image_id")["label"].to_dict() == GOOD


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
