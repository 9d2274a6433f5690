"""From decided masks to the rows of a sample, and what is refused on the way."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco

from pipeline.competition import Head
from pipeline.heads.mask_decoding import columns
from pipeline.submission.build import expected_rows, fill
from pipeline.submission.check import check
from pipeline.tasks.segmentation.forms import RunLengths, Written
from pipeline.tasks.segmentation.submission import MaskRules, as_predictions, submission_rules, submission_table
from toolkit.errors import UserError
from toolkit.masks import maps

HEAD = Head("mask", "mask", ("cat", "dog"))
ONE = Head("mask", "mask", ("ship",))
IDS = ["a.png", "b.png", "c.png"]
SIZE = (20, 31)


def masks_of(head: Head) -> dict[str, list[np.ndarray]]:
    random = np.random.default_rng(3)
    found = {name: [random.random(SIZE) < 0.3 for _ in head.classes] for name in IDS}
    found["b.png"][0] = np.zeros(SIZE, bool)
    return found


def predictions_of(masks: dict[str, list[np.ndarray]], head: Head) -> pd.DataFrame:
    cells = [[maps.encode_mask(mask) for mask in masks[name]] for name in masks]
    return pd.DataFrame(cells, index=pd.Index(list(masks), name="id"), columns=columns(head), dtype=object)


def theirs(text: str, size: tuple[int, int], first: int = 1) -> np.ndarray:
    """A column-major RLE decoded by pycocotools."""
    numbers = [int(number) for number in text.split()]
    counts, end = [], 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        counts += [start - first - end, length]
        end = start - first + length
    counts.append(size[0] * size[1] - end)
    return coco.decode(coco.frPyObjects({"size": list(size), "counts": counts}, *size)).astype(bool)


def filled(sample: pd.DataFrame, head: Head, form: Written, folder: Path) -> tuple[pd.DataFrame, MaskRules]:
    images = {name: folder / name for name in IDS}
    for path in images.values():
        cv2.imwrite(str(path), np.zeros((*SIZE, 3), np.uint8))
    table = submission_table(sample, predictions_of(masks_of(head), head), [head], "image_id", form)
    rules = submission_rules(sample, [head], "image_id", form, images)
    return fill(expected_rows(sample, pd.Series(IDS), rules.keys), table, rules.keys), rules


KEYS = [(name, each) for name in reversed(IDS) for each in ("dog", "cat")]
SAMPLES = {
    "two columns": pd.DataFrame([(name, each, "-") for name, each in KEYS], columns=["id", "class", "rle"]),
    "joined": pd.DataFrame([(f"{name}_{each}", "1 0") for name, each in KEYS], columns=["Image_Label", "Pixels"]),
    "wide": pd.DataFrame([(name, "", "") for name in reversed(IDS)], columns=["image_id", "dog", "cat"]),
}


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("form", [Written(), Written("row", 0), Written(size=(10, 40))])
def test_each_sample_is_filled_in_its_order_and_read_back(kind: str, form: Written, tmp_path: Path) -> None:
    sample, masks = SAMPLES[kind], masks_of(HEAD)
    table, rules = filled(sample, HEAD, form, tmp_path)
    assert list(table.columns) == list(sample.columns)
    empty = {"two columns": "-", "joined": "1 0", "wide": ""}[kind]
    if kind == "wide":
        cells = dict(zip(KEYS, table[["dog", "cat"]].to_numpy().ravel(), strict=True))
    else:
        named = table["Image_Label"].str.split("_") if kind == "joined" else table[["id", "class"]].to_numpy().tolist()
        assert [tuple(key) for key in named] == KEYS
        cells = dict(zip(KEYS, table.iloc[:, -1], strict=True))
    for (name, each), text in cells.items():
        mask = masks[name][HEAD.classes.index(each)]
        if form.size:
            mask = cv2.resize(mask.astype(np.uint8), (40, 10), interpolation=cv2.INTER_NEAREST).astype(bool)
        if not mask.any():
            assert text == empty
        elif form.order == "column":
            assert (theirs(text, mask.shape, form.first) == mask).all()
        else:
            assert (mask == theirs(text, mask.T.shape, form.first).T).all()
    assert check(table, sample, rules) == []
    back = as_predictions(table, rules)
    assert back is not None
    for name in IDS:
        for column, mask in zip(columns(HEAD), masks[name], strict=True):
            same = maps.at_image_size(back.loc[name, column]) > 127
            assert (same == mask).all() or form.size is not None


@pytest.mark.parametrize(("written", "said"), [(Written("row"), True), (Written(first=0), True), (Written(), False)])
def test_masks_that_are_written_as_they_are_not_read_are_a_note(written: Written, said: bool) -> None:
    """A grader would take them for other masks, and nothing else shows it."""
    rules = submission_rules(SAMPLES["wide"], [HEAD], "image_id", written, read=RunLengths("rle", classes="class"))
    assert [("TRUTH" in note and "FORM" in note) for note in rules.notes()] == [True] * said


def test_a_row_for_each_object(tmp_path: Path) -> None:
    sample = pd.DataFrame({"ImageId": ["c.png", "a.png", "a.png", "b.png"], "EncodedPixels": ["1 1", "1 1", "2 1", ""]})
    table, rules = filled(sample, ONE, Written(), tmp_path)
    assert list(dict.fromkeys(table["ImageId"])) == ["c.png", "a.png", "b.png"]
    for name, (mask,) in masks_of(ONE).items():
        texts = table["EncodedPixels"][table["ImageId"] == name]
        if not mask.any():
            assert texts.tolist() == [""]
            continue
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        assert len(texts) == count - 1
        found = [theirs(text, SIZE) for text in texts]
        assert (np.sum(found, axis=0) == mask).all() and all(len(np.unique(labels[each])) == 1 for each in found)
    assert check(table, sample, rules) == []
    twice = pd.concat([table, table[table["ImageId"] == "a.png"].iloc[:1]])
    assert [problem.text for problem in check(twice, sample, rules)] == [
        "in 1 images (a.png) masks overlap; a pixel cannot belong to two objects"
    ]


def test_hidden_test_rows_have_a_row_for_each_class() -> None:
    placeholder = pd.DataFrame({"id": ["x", "x"], "class": ["cat", "dog"], "rle": ["", ""]})
    rules = submission_rules(placeholder, [HEAD], "id")
    rows = expected_rows(placeholder, pd.Series(["a", "b"]), rules.keys)
    assert rows.to_numpy().tolist() == [["a", "cat", ""], ["a", "dog", ""], ["b", "cat", ""], ["b", "dog", ""]]
    joined = pd.DataFrame({"id": ["x_cat", "x_dog"], "rle": ["", ""]})
    rows = expected_rows(joined, pd.Series(["a"]), submission_rules(joined, [HEAD], "id").keys)
    assert rows["id"].tolist() == ["a_cat", "a_dog"]


BAD = {
    "1 2 3": "3 numbers, an odd count",
    "1 x": "no whole number",
    "600 40": "ends 19 pixels beyond the image of 20 x 31",
    "4 0": "a run has the length 0",
    "0 3": "starts at 0, and the first pixel is number 1",
    "9 2 1 2": "not sorted",
    "1 5 3 4": "overlap",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_with_a_cell(text: str, tmp_path: Path) -> None:
    sample = SAMPLES["two columns"]
    table, rules = filled(sample, HEAD, Written(), tmp_path)
    table.loc[1, "rle"] = text
    [problem] = check(table, sample, rules)
    assert problem.kind == "mask" and BAD[text] in problem.text and "(c.png cat)" in problem.text
    assert problem.warning == (text in ("9 2 1 2", "1 5 3 4"))


def test_keys_of_two_columns(tmp_path: Path) -> None:
    sample = SAMPLES["two columns"]
    table, rules = filled(sample, HEAD, Written(), tmp_path)

    def texts(changed: pd.DataFrame) -> list[str]:
        return [problem.text for problem in check(changed, sample, rules)]

    assert texts(table.drop(index=1)) == ["1 of 6 missing (c.png / cat); every id of the sample needs a row"]
    assert texts(pd.concat([table, table[:1]])) == ["1 more than once (c.png / dog); write one row per id"]
    assert "differ from the sample's order from row 1" in texts(table[::-1])[0]
    stems = table.assign(id=table["id"].str.removesuffix(".png"))
    assert texts(stems)[0].startswith("3 spelled otherwise ('c' for 'c.png'")
    with pytest.raises(UserError, match=r"of column 'id / class' stand more than once \(c.png / dog\)"):
        expected_rows(pd.concat([sample, sample[:1]]), pd.Series(IDS), rules.keys)
    other = table.assign(rle=table["rle"].replace("-", ""))
    assert "not written as the sample does it; write '-'" in texts(other)[0]


def test_classes_that_exclude_each_other(tmp_path: Path) -> None:
    table, rules = filled(SAMPLES["two columns"], HEAD, Written(), tmp_path)
    exclusive = submission_rules(SAMPLES["two columns"], [Head("mask", "multiclass_mask", HEAD.classes)], "id")
    assert rules.problems(table) == []
    [problem] = exclusive.problems(table)
    assert "in 2 images (c.png, a.png) masks overlap; a pixel cannot belong to two classes" in problem.text


def test_samples_that_are_not_known() -> None:
    with pytest.raises(UserError, match="does not say of which of the 2 classes"):
        submission_rules(pd.DataFrame({"id": ["a", "b"], "rle": ""}), [HEAD], "id")
    with pytest.raises(UserError, match="one column of RLE and one of the class"):
        submission_rules(pd.DataFrame({"id": ["a"], "x": "", "y": "", "z": ""}), [HEAD], "id")
