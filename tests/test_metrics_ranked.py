"""The submission of a metric that reads several classes in one cell."""

from pathlib import Path

import numpy as np
import pytest

from house_prices import IDS, csv, make_house, refused
from projects import Renders

CLASSES = {"Id": ["new_whale", "w_1", "w_2", "w_3", "w_4", "w_5", "w_6"]}


@pytest.mark.parametrize(("metric", "count"), [("map_at_3", 3), ("map_at_5", 5)])
def test_the_best_classes_in_one_cell(metric: str, count: int, renders: Renders, tmp_path: Path) -> None:
    house = make_house(renders, tmp_path / "project", metric, CLASSES, ("Image", "Id"))
    predictions = house.predict(IDS)
    predictions.loc["x-1"] = np.float32(1 / 7)
    predictions.to_parquet(house.run / "test.parquet")
    assert house.submit("one").status == 0
    written = house.written().set_index("Image")["Id"]
    for name in IDS[:-1]:
        ranked = predictions.loc[name].sort_values(ascending=False).index[:count].str.removeprefix("Id:")
        assert written[name] == " ".join(ranked)
    assert written["x-1"] == " ".join(CLASSES["Id"][:count]), "ties stand in class order, as in the metric"
    one = dict.fromkeys(IDS, "w_1")
    assert house.check(csv(one, "Image,Id")).status == 0, "fewer labels are legal"
    refused(house.check(csv({**one, "x-1": "w_1 w_9"}, "Image,Id")), "'?w_9'?.*w_")
    refused(house.check(csv({**one, "x-1": ""}, "Image,Id")), "blank: 1 of 6")
    refused(house.check(csv({**one, "x-1": "w_1 w_1"}, "Image,Id")), "name a label twice")
    refused(house.check(csv({**one, "x-1": " ".join(CLASSES["Id"])}, "Image,Id")), f"hold more than {count} labels")
