"""What the data check says of masks."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.data.faults import Fault
from pipeline.tasks.segmentation.labels import mask_faults
from pipeline.tasks.segmentation.mask_files import FileTruth
from pipeline.tasks.segmentation.outlines import PolygonTruth
from pipeline.tasks.segmentation.truth import RunTruth, Truth

SIZE = (40, 64)


def faults(truths: list[Truth], folds: list[int] | None = None) -> dict[str, Fault]:
    rows = pd.DataFrame({"id": [f"r{i}" for i in range(len(truths))], "mask": pd.Series(truths, dtype=object)})
    rows["fold"] = folds or [0] * len(truths)
    found = list(mask_faults(rows, "mask"))
    return {f"{fault.problem} {fault.row}": fault for fault in found}


def runs(*texts: str, order: str = "column") -> RunTruth:
    return RunTruth(("cat",), SIZE, (tuple(text for text in texts if text),), order)  # type: ignore[arg-type]


def test_sound_masks_have_no_faults() -> None:
    assert faults([runs("1 5"), runs("7 3 20 4")]) == {}


def test_rle_that_cannot_be_read_is_fatal_and_what_is_odd_is_not() -> None:
    found = faults([runs("1 5"), runs("1 2 3"), runs("2550 20"), runs("9 2 1 2"), runs("1 9 4 2"), runs("1 5 7 0")])
    assert all(
        word in found[row].detail
        for row, word in (("mask r1", "odd count"), ("mask r2", "9 pixels beyond"), ("mask r5", "length 0"))
    )
    assert all(found[row].fatal for row in ("mask r1", "mask r2", "mask r5"))
    assert "not sorted" in found["odd masks r3"].detail and not found["odd masks r3"].fatal
    assert "overlap" in found["odd masks r4"].detail and len(found) == 5


def test_masks_that_make_sense_in_the_other_order_only() -> None:
    random, right, wrong = np.random.default_rng(0), [], []
    for _ in range(6):
        mask = np.zeros(SIZE, np.uint8)
        cv2.circle(mask, (int(random.integers(15, 49)), int(random.integers(12, 28))), 10, 1, -1)
        flat = np.concatenate([[0], mask.ravel(), [0]]).astype(int)  # along the rows
        edges = np.flatnonzero(np.diff(flat))
        text = " ".join(f"{start + 1} {end - start}" for start, end in zip(edges[::2], edges[1::2], strict=True))
        right.append(runs(text, order="row"))
        wrong.append(runs(text))
    assert faults(list(right)) == {}
    [fault] = faults(list(wrong)).values()
    assert fault.problem == "orientation" and "order='row'" in fault.detail and not fault.fatal


def test_classes_and_empty_images() -> None:
    two = [RunTruth(("cat", "dog"), SIZE, ((("1 2",) if i % 4 else ()), ())) for i in range(8)]
    found = faults(list(two), [0, 0, 0, 0, 0, 0, 1, 1])
    assert "dog is in no image" in found["missing class mask"].detail and not found["missing class mask"].fatal
    assert "fold 0: 33.3%, fold 1: 0.0%" in found["empty images mask"].detail
    assert faults([runs(), runs()])["missing class mask"].fatal


def test_images_that_are_no_files_have_a_size_of_their_own(tmp_path: Path) -> None:
    """What only a reader knows how to read says no size; the table has to. A missing image is told elsewhere."""
    (tmp_path / "series").mkdir()
    (tmp_path / "all.npz").write_bytes(b"PK")
    images = [tmp_path / name for name in ("series", "all.npz", "all.npz/3", "gone.png")]
    found = faults([RunTruth(("cat",), image, (("1 5",),)) for image in images])
    assert list(found) == ["size of an image r0, r1, r2"]
    [fault] = found.values()
    assert fault.fatal and "3 images" in fault.detail and "`size`" in fault.detail


def test_mask_files_and_outlines(tmp_path: Path) -> None:
    for name, size in (("good", SIZE), ("turned", SIZE[::-1])):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full(size, 7, np.uint8))
    found = faults(
        [
            FileTruth(("cat",), SIZE, (tmp_path / "good.png",)),
            FileTruth(("cat",), SIZE, (tmp_path / "turned.png",)),
            FileTruth(("cat",), SIZE, (tmp_path / "none.png",)),
            FileTruth(("cat",), SIZE, (tmp_path / "good.png",), ((0, -1), (1, 0))),
            PolygonTruth(("cat",), SIZE, ((((np.array([[0.0, 0.0], [90.0, 0.0], [5.0, 5.0]]),),),),)),
        ]
    )
    assert "64 x 40 pixels, and its image 40 x 64" in found["mask r1"].detail
    assert "there is no mask" in found["mask r2"].detail
    assert "values 7, which stand for no class" in found["mask r3"].detail
    assert "leaves the image" in found["odd masks r4"].detail
    assert "covers every pixel" in found["odd masks r0"].detail and len(found) == 5
