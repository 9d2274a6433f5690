"""From predictions to a file that Kaggle takes."""

import functools
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from house_prices import CLASS_HEADER, IDS, THREE, House, csv, make_house, one_line, refused
from projects import Renders
from toolkit.files import digest

Build = Callable[..., House]


@pytest.fixture
def build(renders: Renders, tmp_path: Path) -> Build:
    return functools.partial(make_house, renders, tmp_path / "project")


def test_labels_by_id(build: Build) -> None:
    """Zero-padded ids, ids with dots and extensions, predictions in another order than the sample."""
    house = build()
    predictions = house.predict(IDS[::-1])
    result = house.submit("one")
    assert result.status == 0, result
    best = predictions.to_numpy().argmax(axis=1).astype(str)
    expected = dict(zip(predictions.index, best, strict=True))
    written = house.written()
    assert written["image_id"].tolist() == list(IDS)
    assert written["label"].tolist() == [expected[name] for name in IDS]
    assert "submissions/one.csv (6 rows)" in result.stdout
    assert house.submit("one", "--check", "submissions/one.csv").status == 0
    assert sorted(path.name for path in (house.root / "submissions").iterdir()) == ["one.csv"]


def test_probabilities_sum_to_one_after_reading_again(build: Build) -> None:
    classes = [f"breed_{number}" for number in range(120)]
    house = build("log_loss", {"breed": classes}, ("id", *classes[::-1]))
    predictions = house.predict(IDS) * np.float32(0.999)
    predictions.to_parquet(house.run / "test.parquet")
    assert house.submit("one").status == 0
    read = pd.read_csv(house.root / "submissions/one.csv", dtype={"id": str})
    assert list(read.columns) == ["id", *classes[::-1]]
    values = read.drop(columns="id").to_numpy()
    assert np.abs(values.sum(axis=1) - 1).max() < 1e-7
    exact = predictions.to_numpy(np.float64) / predictions.to_numpy(np.float64).sum(axis=1, keepdims=True)
    assert np.allclose(values[:, ::-1], exact, atol=1e-8)


@pytest.mark.parametrize("metric", ["log_loss", "roc_auc"])
def test_fewer_classes_than_trained(build: Build, metric: str) -> None:
    house = build(metric, THREE, ("image_id", "owl", "cat"))
    predictions = house.predict(IDS)
    submitted = house.submit("one")
    assert submitted.status == 0
    assert "note: the sample asks for 2 of the 3 classes of 'label', and not for dog" in submitted.stdout
    values = house.written()[["owl", "cat"]].to_numpy(float)
    asked = predictions[["label:owl", "label:cat"]].to_numpy(np.float64)
    if metric == "log_loss":
        asked = asked / asked.sum(axis=1, keepdims=True)
    assert np.allclose(values, asked, atol=1e-7)


def test_one_column_of_probabilities_holds_the_second_class(build: Build) -> None:
    house = build("roc_auc", {"target": ["benign", "malignant"]}, ("image_name", "prediction"))
    predictions = house.predict(IDS)
    assert house.submit("one").status == 0
    assert np.allclose(house.written()["prediction"].to_numpy(float), predictions["target:malignant"], atol=1e-7)
    bad = csv({**dict.fromkeys(IDS, "0.5"), "x-1": "1.5"}, "image_name,prediction")
    refused(house.check(bad), "range: 1 of 6 values of column 'prediction'")


def test_several_heads(build: Build) -> None:
    """More label columns in train than the sample asks for, in another order; names stay exact text."""
    classes = {"root": ["001", "002"], "vowel": ["a b", "1.0"], "unasked": ["x", "y"]}
    house = build("accuracy", classes, ("image_id", "vowel", "root"))
    predictions = house.predict(IDS)
    assert house.submit("one").status == 0
    written = house.written()
    assert list(written.columns) == ["image_id", "vowel", "root"]
    for head in ("vowel", "root"):
        second = predictions[f"{head}:{classes[head][1]}"] > 0.5
        assert written[head].tolist() == [classes[head][int(flag)] for flag in second]


def test_probabilities_of_several_heads(build: Build) -> None:
    classes = {"eye": ["open", "shut"], "mouth": ["open", "shut"]}
    columns = ("image_id", "eye_open", "eye_shut", "mouth_open", "mouth_shut")
    house = build("log_loss", classes, columns)
    predictions = house.predict(IDS)
    assert house.submit("one").status == 0
    assert np.allclose(house.written()["mouth_open"].to_numpy(float), predictions["mouth:open"], atol=1e-7)


def test_no_local_test_rows(build: Build) -> None:
    house = build(ids=("a", "b"))
    (house.raw / "test.csv").unlink()
    house.predict([])
    result = house.submit("one")
    assert result.status == 0, result
    assert "no test rows" in result.stdout
    assert (house.root / "submissions/one.csv").read_text() == "image_id,label\n"
    assert house.check("image_id,label\nhidden_1,4\n").status == 0
    refused(house.check("image_id,label\nhidden_1,x\n"), "label: 1 of 1 values")


def test_a_sample_of_placeholders(build: Build) -> None:
    house = build(ids=("id_0", "id_1"))
    house.tests(IDS)
    house.predict(IDS[::-1])
    assert house.submit("one").status == 0
    assert house.written()["image_id"].tolist() == list(IDS)
    refused(house.check("image_id,label\nid_0,1\nid_1,1\n"), "ids: 6 of 6 missing")


def test_predictions_may_hold_more_rows_than_the_sample(build: Build) -> None:
    house = build()
    house.tests([*IDS, "unasked"])
    house.predict([*IDS, "unasked"])
    assert house.submit("one").status == 0
    assert house.written()["image_id"].tolist() == list(IDS)


def test_numbers_keep_what_a_float32_knows(build: Build) -> None:
    house = build("roc_auc", {"target": ["0", "1"]}, ("image_id", "target"))
    predictions = house.predict(IDS)
    predictions["target:1"] = np.float32(1e-7) * np.arange(1, 7, dtype=np.float32)
    predictions["target:0"] = 1 - predictions["target:1"]
    predictions.to_parquet(house.run / "test.parquet")
    assert house.submit("one").status == 0
    assert house.written()["target"].astype(float).is_monotonic_increasing
    assert house.written()["target"].nunique() == 6


def test_what_stands_in_the_way(build: Build) -> None:
    """Each is one line that says what to do; nothing is written."""
    house = build()
    one_line(house.submit("one"), "no test predictions of 'one'", "scripts/predict.py one")
    one_line(house.submit("on"), "no run of experiment 'on'", "did you mean 'one'")
    one_line(house.submit(), "--check FILE")
    one_line(house.submit("--check", "nowhere.csv"), "no file nowhere.csv")
    one_line(house.submit("one", "--data", "nowhere"), "there is no data at")
    house.predict(IDS[1:])
    one_line(house.submit("one"), "1 of the 6 ids", "00007", "predict again")
    house.predict([name.removesuffix(".png") for name in IDS])
    one_line(house.submit("one"), "spelled otherwise", "'scan' for 'scan.png'")
    house.predict(IDS)
    house.sample(("image_id", "foo", "bar"))
    one_line(house.submit("one"), "'foo', 'bar'", "src/competition/submission.py")
    house.sample(("image_id", "0", "1", "eleven"))
    one_line(house.submit("one"), "'eleven'", "neither a trained class nor a target column")
    assert not (house.root / "submissions").exists()


def test_samples_that_cannot_be_used(build: Build) -> None:
    house = build()
    house.predict(IDS)
    path = house.raw / "sample_submission.csv"
    for text, part in (
        (b"", "is not a csv file"),
        (b"image_id\na\n", "the single column 'image_id'"),
        (b"image_id,label\na,0\na,0\n", "1 ids of column 'image_id' stand more than once (a)"),
        (b"image_id,label\na,0,1\n", "more cells"),
        ("image_id,label\né,0\n".encode("latin-1"), "UTF-8"),
    ):
        path.write_bytes(text)
        one_line(house.submit("one"), part)
    path.unlink()
    one_line(house.submit("one"), "there is no", "sample_submission.csv", "competition.yaml")


def test_a_table_of_the_users_own(build: Build) -> None:
    """A format that is not recognised is built in src/competition and checked as far as the sample tells."""
    house = build("accuracy", THREE, ("image_id", "score", "note"))
    house.sample(("image_id", "score", "note"))
    house.predict(IDS)
    own = house.root / "src/competition/submission.py"
    text = "def submission(settings, sample, predictions, heads, metric):\n    import pandas as pd\n"
    text += "    return pd.DataFrame({'note': 1, 'score': VALUE, 'image_id': predictions.index})\n"
    own.write_text(text.replace("VALUE", "predictions['label:cat'].to_numpy()"))
    assert house.submit("one").status == 0
    assert list(house.written().columns) == ["image_id", "score", "note"]
    (house.root / "submissions/one.csv").unlink()
    own.write_text(text.replace("VALUE", "float('inf')"))
    one_line(house.submit("one"), "the submission of 'one' is not written", "finite: 6 of 6 values of column 'score'")
    own.write_text(text.replace("'note': 1,", "").replace("VALUE", "1.0"))
    one_line(house.submit("one"), "returns the columns score, image_id", "image_id, score, note")
    assert not list((house.root / "submissions").iterdir())


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_demos_leaderboard(build: Build, metric: str) -> None:
    house = build(metric)
    predictions = house.predict(IDS)
    (house.raw / ".answers.csv").write_text(csv(dict.fromkeys(IDS, "3")))
    assert "leaderboard" not in house.submit("one").stdout  # real data has no marker
    tables = {name: digest((house.raw / name).read_bytes()) for name in ("test.csv", "sample_submission.csv")}
    (house.raw / ".demo").write_text(json.dumps({"files": tables}))
    expected = (predictions.to_numpy().argmax(axis=1) == 3).mean()
    if metric == "log_loss":
        expected = -np.log(predictions["label:3"].to_numpy(np.float64)).mean()
    found = re.search(rf"the demo's leaderboard: {metric} ([\d.]+)", house.submit("one").stdout)
    assert found and float(found[1]) == pytest.approx(expected, abs=1e-4)


def test_shares_beside_the_out_of_fold_rows(build: Build) -> None:
    house = build("accuracy", THREE)
    house.predict(IDS).to_parquet(house.run / "oof.parquet")
    stdout = house.submit("one").stdout
    assert "out of fold" in stdout
    assert all(name in stdout for name in THREE["label"])
    assert "that differ most" not in stdout


def test_a_table_of_shares_says_that_it_is_cut(build: Build) -> None:
    names = [f"kind_{number}_" for number in range(11)]
    house = build("accuracy", {"label": names}, ["image_id", *names])
    house.predict(IDS).to_parquet(house.run / "oof.parquet")
    stdout = house.submit("one").stdout
    assert "predictions of 'label', the 10 of 11 that differ most" in stdout


def test_a_large_submission_is_checked_fast(build: Build) -> None:
    ids = [f"{number:06d}" for number in range(50_000)]
    house = build("log_loss", THREE, CLASS_HEADER.split(","), ids)
    house.predict(ids)
    start = time.process_time()
    assert house.submit("one").status == 0
    assert time.process_time() - start < 15
    assert len(pd.read_csv(io.StringIO((house.root / "submissions/one.csv").read_text()))) == len(ids)
