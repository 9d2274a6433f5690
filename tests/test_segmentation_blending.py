"""Tiles back to maps: against the whole image, pixel by pixel, and in bounded memory."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from torch import Tensor, nn

from pipeline.competition import Head
from pipeline.data.augment import resize
from pipeline.data.collate import collate
from pipeline.tasks.segmentation.blending import Blender
from pipeline.tasks.segmentation.dataset import MaskDataset
from pipeline.tasks.segmentation.windows import SegmentationSettings, windows
from projects import source
from toolkit.images.readers import image as read_image
from toolkit.masks import maps

PLANES, LABELS = Head("mask", "mask", ("a", "b")), Head("kind", "multiclass_mask", ("x", "y"))


class Local(nn.Module):
    """Three convolutions: each output sees 3 pixels to every side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()]
        self.net = nn.Sequential(*layers, nn.Conv2d(4, 5, 3, padding=1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = 4 * self.net(image.permute(0, 3, 1, 2) / 64 - 2)
        return {
            "output_mask": found[:, :2],
            "output_kind": found[:, 2:],
            "output_mask@presence": found[:, :2].amax((2, 3)),
        }


def predicted(
    root: Path, names: list[str], model: Any, size: tuple[int, int], batch: int = 3, **more: Any
) -> pd.DataFrame:
    settings, heads = SegmentationSettings(**more), [PLANES, LABELS]
    rows = pd.DataFrame({"id": [Path(name).stem for name in names], "image": names})
    made = MaskDataset(
        rows, root, partial(read_image, channels=3), resize("test", size), size, settings, heads, "test", 0
    )
    blender, parts = Blender(heads, settings), []
    for first in range(0, len(made), batch):
        samples = collate([made[0, k] for k in range(first, min(first + batch, len(made)))])
        with torch.inference_mode():
            parts.append(blender(samples, model(samples["input_image"])))
    assert all(list(part.columns) == list(parts[0].columns) for part in parts)
    return pd.concat(parts)


def write(path: Path, size: tuple[int, int]) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    cv2.imwrite(str(path), pixels[:, :, ::-1])
    return pixels


def test_tiles_give_what_the_whole_image_gives(tmp_path: Path) -> None:
    pixels = write(tmp_path / "a.png", (210, 173))
    write(tmp_path / "b.png", (40, 90))
    model = Local()
    with torch.inference_mode():
        outputs = model(torch.from_numpy(pixels)[None])
    wanted = {"mask_a": outputs["output_mask"][0, 0].sigmoid(), "kind_y": outputs["output_kind"][0].softmax(0)[2]}
    table = predicted(tmp_path, ["a.png", "b.png"], model, (64, 48))
    assert list(table.index) == ["a", "b"]
    assert table.index.name == "id"
    expected = ["mask_a", "mask_b", "kind_x", "kind_y", "mask_a@presence", "mask_b@presence"]
    assert list(table.columns) == expected
    for column, value in wanted.items():
        found = maps.probability(table.loc["a", column]).astype(int)
        assert maps.size_of(table.loc["a", column]) == found.shape == (210, 173)
        difference = np.abs(found - np.rint(255 * value.numpy()).astype(int))
        assert difference[3:-3, 3:-3].max() <= 1
        assert difference.mean() < 0.02
    assert maps.size_of(table.loc["b", "mask_b"]) == (40, 90)
    assert table["mask_a@presence"].dtype == np.float32


def test_presence_is_that_of_the_surest_window(tmp_path: Path) -> None:
    pixels = np.zeros((100, 30, 3), np.uint8)
    pixels[90, 10] = 200
    cv2.imwrite(str(tmp_path / "a.png"), pixels)

    def model(image: Tensor) -> dict[str, Tensor]:
        seen = (image.amax((1, 2, 3)) / 100).float()
        flat = torch.zeros(len(image), 3, *image.shape[1:3])
        return {"output_mask": flat[:, :2], "output_kind": flat, "output_mask@presence": torch.stack([seen, -seen], 1)}

    table = predicted(tmp_path, ["a.png"], model, (32, 32))
    assert table.loc["a", "mask_a@presence"] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-6)
    assert table.loc["a", "mask_b@presence"] == pytest.approx(0.5)


def test_a_batch_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many windows, heads and images it has: a GPU waits for each read."""
    for name, size in {"a.png": (100, 90), "b.png": (30, 30)}.items():
        write(tmp_path / name, size)
    reads, cpu = list[Any](), Tensor.cpu

    def counted(tensor: Tensor) -> Tensor:
        reads.append(tensor.shape)
        return cpu(tensor)

    monkeypatch.setattr(Tensor, "cpu", counted)
    table = predicted(tmp_path, ["a.png", "b.png"], Local(), (64, 48), batch=4)
    assert list(table.index) == ["a", "b"] and len(reads) == 2, "seven windows"


def test_a_constant_stays_constant_whatever_the_windows(tmp_path: Path) -> None:
    write(tmp_path / "a.png", (61, 83))

    def model(image: Tensor) -> dict[str, Tensor]:
        flat = torch.full((len(image), 3, *image.shape[1:3]), 0.3)
        return {"output_mask": flat[:, :2], "output_kind": flat}

    for size, more in (
        ((16, 24), {"overlap": 0.5}),
        ((16, 24), {"overlap": 0.0}),
        ((17, 13), {"scale": 0.4}),
        ((32, 32), {"scale": 2.0}),
        ((16, 24), {"store_scale": 0.3}),
        ((200, 200), {}),
        ((24, 16), {"view": "whole"}),
    ):
        table = predicted(tmp_path, ["a.png"], model, size, **more)
        assert "mask_a@presence" not in table
        assert (maps.at_image_size(table.loc["a", "mask_a"]) == 146).all()
        assert maps.at_image_size(table.loc["a", "kind_x"]).shape == (61, 83)
        assert (maps.probability(table.loc["a", "kind_x"]) == 85).all()


@pytest.mark.parametrize("more", [{"scale": 0.5}, {"store_scale": 0.5}, {"view": "whole"}], ids=str)
def test_maps_lie_where_the_image_does(tmp_path: Path, more: dict[str, Any]) -> None:
    """A model that returns the brightness of a smooth image."""
    row, column = np.mgrid[:240, :180]
    bright = np.rint(127 + 60 * np.sin(row / 25) + 60 * np.cos(column / 30)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), bright)

    def model(image: Tensor) -> dict[str, Tensor]:
        grey = (image[..., :2].permute(0, 3, 1, 2) / 255).clamp(0.001, 0.999).logit()
        return {"output_mask": grey, "output_kind": torch.cat([grey, grey[:, :1]], 1)}

    table = predicted(tmp_path, ["a.png"], model, (64, 48), **more)
    stored = maps.probability(table.loc["a", "mask_a"]).shape
    assert stored == ((64, 48) if "view" in more else (120, 90))
    found = maps.at_image_size(table.loc["a", "mask_a"]).astype(int)
    assert np.abs(found - bright).max() <= (9 if "view" in more else 4)
    assert np.abs(found - bright).mean() < 1.5
    assert abs((found - bright).mean()) < 0.3


def test_windows_out_of_order_are_no_map(tmp_path: Path) -> None:
    blender = Blender([PLANES], SegmentationSettings())
    second = windows((100, 100), (64, 64), SegmentationSettings())[1]
    batch = {"input_id": ["a"], "input_window": torch.from_numpy(second.numbers)[None]}
    with pytest.raises(ValueError, match="out of order"):
        blender(batch, {"output_mask": torch.zeros(1, 2, 64, 64)})


MEASURE = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import torch
torch.set_num_threads(1)
from test_segmentation_blending import predicted

def model(image):
    dark = image[..., 0].float()[:, None] / 128 - 1
    return {"output_mask": dark.expand(-1, 2, -1, -1), "output_kind": dark.expand(-1, 3, -1, -1)}

for name in sys.argv[4:]:
    predicted(Path(sys.argv[3]), [name], model, (256, 256))
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(peak.split()[1]) // 1024)
"""


def test_memory_does_not_grow_with_the_area(tmp_path: Path) -> None:
    """Of an image in a tiled tif, and of one with 16 times the area."""
    for side in (1024, 4096):
        block = np.zeros((256, 256, 3), np.uint8)
        block[64:, 64:] = 200
        tifffile.imwrite(
            tmp_path / f"{side}.tif",
            (block for _ in range((side // 256) ** 2)),
            shape=(side, side, 3),
            dtype=np.uint8,
            photometric="rgb",
            tile=(256, 256),
            compression="zlib",
        )
    arguments = [str(source()), str(Path(__file__).parent), str(tmp_path), "1024.tif", "4096.tif"]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    small, large = (int(line) for line in done.stdout.split())
    assert large - small < 60  # MiB; a float map of its classes has 320
