"""Images per second from files to normalised float32 batches, beside PIL and torchvision transforms.

Both read the same JPEGs, end at the same size, and do the same kinds of things with the same odds and ranges: resize
with antialiasing, mirror, affine, brightness and contrast, scaling to float32, normalising. Ours normalises the whole
batch behind the loader, as the model does, and that is measured too. From the cache ours neither decodes nor resizes;
everything else is the same. Filling it is not measured: it is one pass.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.measure import Aim, Effort, Row, beside, in_turns
from benchmarks.workplace import Workplace, quiet

AIM = Aim("at least", 3.0)
CACHE_AIM = Aim("at least", 10.0)  # from the cache, over the peers
DECODING_AIM = Aim("at least", 5.0)  # from the cache, over decoding each time
SIZE = 224
BATCH = 16
FILES = 32  # distinct pictures; an epoch reads them several times
SHAPES = ((768, 1024), (1024, 768), (1024, 1024))  # height and width
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure(place: Workplace, effort: Effort) -> list[Row]:
    """Rows for each number of loader processes: decoding and from the cache, over each version of torchvision."""
    folder = place.folder / "photographs"
    files = write_photographs(folder)
    shapes = ", ".join(f"{height} x {width}" for height, width in SHAPES)
    note = f"images: JPEGs of {shapes} to {SIZE} px, batches of {BATCH}, files cached"
    rows = []
    with place.pipeline():
        for workers in (0, 2):
            readers: dict[str, Callable[[], float]] = {
                "ours": OurReader(place, folder, files, effort.images, workers),
                # More of them: an epoch of 128 would be over before the loader's processes are in step.
                "cached": OurReader(place, folder, files, 4 * effort.images, workers, cache=True),
                "PIL, torchvision v1": PeerReader(folder, files, effort.images, workers, transforms_v1()),
                "PIL, torchvision v2": PeerReader(folder, files, effort.images, workers, transforms_v2()),
            }
            in_turns(readers, 1)  # starts the processes
            rates = in_turns(readers, effort.image_rounds)
            readers.clear()  # ends the processes
            ours, cached = rates.pop("ours"), rates.pop("cached")
            processes = f"{workers} loader processes" if workers else "no loader process"
            for name, aim, mine in ((f"images, {processes}", AIM, ours), (f"cache, {processes}", CACHE_AIM, cached)):
                rows += [beside("images", name, peer, "/s", mine, rate, aim, note) for peer, rate in rates.items()]
            name, peer = f"cache, {processes}", "ours, decoding each time"
            rows.append(beside("images", name, peer, "/s", cached, ours, DECODING_AIM, note))
    return rows


class OurReader:
    """The pipeline's dataset, augmentations, collate and loader, and the model's `Prepare` behind them."""

    def __init__(
        self, place: Workplace, folder: Path, files: Sequence[str], count: int, workers: int, cache: bool = False
    ) -> None:
        from pipeline.data.cache import open_cache
        from pipeline.data.loader import TrainBatches, make_loader
        from pipeline.data.samplers import shuffle

        overrides = [f"image.size={SIZE}", f"image.cache={str(cache).lower()}", "model.pretrained=false"]
        setup = place.setup("baseline", [*overrides, "model.encoder=resnet10t"])
        labels = setup.task.heads[0].classes
        rows = pd.DataFrame(
            {
                "id": [f"{number:05d}" for number in range(count)],
                "image": np.resize(np.array(files, dtype=object), count),
                setup.task.heads[0].name: np.resize(np.array(labels, dtype=object), count),
            }
        )
        with quiet():
            reader = open_cache(dataclasses.replace(setup.project, data=folder), setup.config, setup.names, rows)
        dataset = setup.task.dataset(rows, folder, setup.config, setup.names, "train", reader)
        self.batches = TrainBatches(rows, shuffle, BATCH, seed=0)
        self.loader = make_loader(dataset, self.batches, setup.task.collate, workers, torch.device("cpu"))
        self.prepare = setup.task.model(setup.config, setup.names, pretrained=False).prepare
        self.epoch = 0

    def __call__(self) -> float:
        """Images per second over one epoch."""
        self.batches.begin(self.epoch, 0)
        self.epoch += 1
        began = time.perf_counter()
        for batch in self.loader:
            with torch.no_grad():
                self.prepare(batch)
        return len(self.batches) * BATCH / (time.perf_counter() - began)


class PeerReader:
    """The usual recipe: PIL, torchvision transforms to normalised float32 CHW, torch's default collate."""

    def __init__(self, folder: Path, files: Sequence[str], count: int, workers: int, transform: Any) -> None:
        dataset = PillowImages([folder / name for name in files], count, transform)
        self.loader: DataLoader[Any] = DataLoader(
            dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )

    def __call__(self) -> float:
        """Images per second over one epoch."""
        began = time.perf_counter()
        for _ in self.loader:
            pass
        return len(self.loader) * BATCH / (time.perf_counter() - began)


class PillowImages(Dataset[tuple[Any, int]]):
    """Images as PIL reads them, transformed, and their class."""

    def __init__(self, paths: Sequence[Path], count: int, transform: Callable[[Image.Image], Any]) -> None:
        self.paths = paths
        self.count = count
        self.transform = transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with Image.open(self.paths[index % len(self.paths)]) as file:
            return self.transform(file.convert("RGB")), index % 10


def transforms_v1() -> Any:
    """`src/competition/augmentations.py` of a new project, in torchvision's first interface."""
    bilinear = transforms.InterpolationMode.BILINEAR
    affine = transforms.RandomAffine(15, translate=(0.08, 0.08), scale=(0.85, 1.15), interpolation=bilinear)
    return transforms.Compose(
        [
            transforms.Resize((SIZE, SIZE), antialias=True),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([affine], 0.8),
            transforms.RandomApply([transforms.ColorJitter(brightness=0.2, contrast=0.2)], 0.5),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def transforms_v2() -> Any:
    """The same in torchvision's second interface: resized as PIL's image, float32 from there on."""
    bilinear = v2.InterpolationMode.BILINEAR
    affine = v2.RandomAffine(15, translate=(0.08, 0.08), scale=(0.85, 1.15), interpolation=bilinear)
    return v2.Compose(
        [
            v2.Resize((SIZE, SIZE), antialias=True),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([affine], 0.8),
            v2.RandomApply([v2.ColorJitter(brightness=0.2, contrast=0.2)], 0.5),
            v2.Normalize(MEAN, STD),
        ]
    )


def write_photographs(folder: Path) -> list[str]:
    """JPEGs with the spectrum of photographs: shapes of every size, smooth shades, and grain. Returns their names."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    names = []
    for number in range(FILES):
        height, width = SHAPES[number % len(SHAPES)]
        picture = np.full((height, width, 3), 110.0, np.float32)
        for power in range(1, 9):  # each octave has half the strength of the one before
            coarse = generator.normal(0, 90 / 2**power, (2**power + 1, 2**power + 1, 3)).astype(np.float32)
            picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        for _ in range(30):
            corner = generator.integers(0, (width, height))
            radius = int(generator.integers(5, 120))
            colour = tuple(float(value) for value in generator.integers(0, 256, 3))
            cv2.circle(picture, (int(corner[0]), int(corner[1])), radius, colour, -1, cv2.LINE_AA)
        picture += generator.normal(0, 4, picture.shape).astype(np.float32)
        names.append(f"{number:02d}.jpg")
        cv2.imwrite(str(folder / names[-1]), picture.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return names
