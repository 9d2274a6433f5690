"""dcm and tif of many channels, by the packages that know them, from the file to the model."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_windowing
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, SecondaryCaptureImageStorage

from projects import Renders, imported, run_script
from toolkit.errors import UserError
from toolkit.images.formats import dicom
from toolkit.images.readers import image
from training import SMALL, expect

STORED = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def save(path: Path, stored: np.ndarray, bits: int = 12, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Path:
    """A DICOM file that holds `stored`, with more tags."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
    file.SOPClassUID = SecondaryCaptureImageStorage
    file.Rows, file.Columns = stored.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = stored.dtype.itemsize * 8, bits, bits - 1
    file.PixelRepresentation = int(stored.dtype.kind == "i")
    for name, value in tags.items():
        setattr(file, name, value)
    file.PixelData = stored.tobytes()
    if syntax == JPEG2000Lossless:
        file.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51no codestream"])
    file.save_as(path, enforce_file_format=True)
    return path


def refusal(function: Any, *arguments: Any, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """DICOM PS3.3, C.11.2.1.2.1, from 0 to 1."""
    inside = (values - (center - 0.5)) / (width - 1) + 0.5
    low, high = values <= center - 0.5 - (width - 1) / 2, values > center - 0.5 + (width - 1) / 2
    return np.select([low, high], [0.0, 1.0], inside)


def test_without_a_window_all_stored_values_count(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", STORED)
    read = dicom(path, (8, 8), channels=1)
    assert read.dtype == np.float32 and read.shape == (64, 64, 1)
    assert np.allclose(read[..., 0], STORED / 4095, atol=1e-6)
    assert np.array_equal(image(path, (8, 8)), np.repeat(read, 3, axis=2))
    signed = save(tmp_path / "b.dcm", (STORED.astype(np.int16) - 2048), RescaleSlope=2, RescaleIntercept=5)
    assert np.allclose(dicom(signed, None, channels=1)[..., 0], STORED / 4095, atol=1e-6)


@pytest.mark.parametrize("slope, intercept", [(1, -1024), (0.5, 100), (-1, 4095)])
def test_windows_of_rescaled_values(tmp_path: Path, slope: float, intercept: float) -> None:
    tags = {"RescaleSlope": slope, "RescaleIntercept": intercept, "WindowCenter": [300, 9], "WindowWidth": [700, 9]}
    path = save(tmp_path / "a.dcm", STORED, **tags)
    rescaled = STORED * float(slope) + intercept
    expected = linear(rescaled, 300, 700)
    assert np.allclose(image(path, None, channels=1)[..., 0], expected, atol=1e-5)
    inverted = save(tmp_path / "b.dcm", STORED, PhotometricInterpretation="MONOCHROME1", **tags)
    assert np.allclose(image(inverted, None, channels=1)[..., 0], 1 - expected, atol=1e-5)
    own = image(path, None, channels=1, low=-100, high=900)[..., 0]
    assert np.allclose(own, np.clip((rescaled + 100) / 1000, 0, 1), atol=1e-5)


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions(tmp_path: Path, function: str) -> None:
    path = save(tmp_path / "a.dcm", STORED, WindowCenter=2000, WindowWidth=900, VOILUTFunction=function)
    expected = apply_windowing(STORED, pydicom.dcmread(path)) / 4095
    assert np.allclose(image(path, None, channels=1)[..., 0], expected, atol=1e-5)
    if function == "SIGMOID":
        assert np.allclose(expected, 1 / (1 + np.exp(-4 * (STORED - 2000.0) / 900)))


def test_a_lookup_table_decides_before_a_window(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 10], (np.arange(4096) // 4)[::-1].tolist()
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    path = save(tmp_path / "a.dcm", STORED, VOILUTSequence=[table], WindowCenter=9, WindowWidth=9)
    assert np.allclose(image(path, None, channels=1)[..., 0], (4095 - STORED) // 4 / 1023, atol=1e-6)


def test_colours(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    path = save(tmp_path / "a.dcm", pixels, bits=8, **tags)
    read = image(path, None)
    assert read.dtype == np.float32 and np.allclose(read, pixels / 255)
    assert image(path, None, channels=1).shape == (5, 6, 1)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = save(tmp_path / "frames.dcm", np.zeros((8, 8, 3), np.uint16), Rows=8, Columns=8, NumberOfFrames=3)
    assert "holds 3 frames" in refusal(image, frames, None)
    packed = save(tmp_path / "packed.dcm", STORED, syntax=JPEG2000Lossless)
    said = refusal(image, packed, None)
    assert "packed.dcm as dcm" in said and "group `competition` in pyproject.toml" in said
    (tmp_path / "junk.dcm").write_bytes(b"junk")
    assert "junk.dcm as dcm" in refusal(image, tmp_path / "junk.dcm", None)
    assert "there is no image" in refusal(image, tmp_path / "none.dcm", None)
    tif = tmp_path / "a.tif"
    tifffile.imwrite(tif, np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack")
    assert "write a reader" in refusal(image, tif, None, channels=5)
    tif.write_bytes(b"II*\0junk")
    assert "a.tif as tif" in refusal(image, tif, None, channels=5)
    path = save(tmp_path / "a.dcm", STORED)
    for package in ("pydicom", "tifffile"):
        monkeypatch.setitem(sys.modules, package, None)
    for file, package in ((path, "pydicom"), (tif, "tifffile")):
        said = refusal(image, file, None, channels=5)
        assert f"needs the package '{package}'" in said and "group `competition` in pyproject.toml" in said


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("count", [2, 4, 5, 13])
@pytest.mark.parametrize("way", ["samples", "planes", "pages"])
def test_tif_of_many_channels(tmp_path: Path, dtype: type, count: int, way: str) -> None:
    pixels = np.random.default_rng(0).random((7, 9, count))
    pixels = (pixels * (1 if dtype is np.float32 else np.iinfo(dtype).max)).astype(dtype)
    path = tmp_path / "a.tif"
    if way == "samples":
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    elif way == "planes":
        tifffile.imwrite(path, np.moveaxis(pixels, 2, 0), photometric="minisblack", planarconfig="separate")
    else:
        tifffile.imwrite(path, np.moveaxis(pixels, 2, 0), photometric="minisblack")
    read = image(path, (3, 3), channels=count)
    assert read.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
    top = {np.uint8: 1, np.uint16: 65535, np.float32: 1}[dtype]
    assert np.allclose(read, pixels / top, atol=1e-6)
    if count > 4:
        assert f"has {count} channels, and 8 are wanted" in refusal(image, path, None, channels=8)


def test_colour_with_alpha_keeps_its_order(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(image(tmp_path / "a.tif", None, channels=4), pixels)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "channels"), [(".tif", 5), (".dcm", 1)])
def test_from_the_file_to_the_submission(renders: Renders, tmp_path: Path, suffix: str, channels: int) -> None:
    """Five channels, of which the last two alone know the label; grey of 12 bits."""
    project = renders.copy(
        tmp_path / "project",
        {"trackers": [], "train_images": "all/{image_id}", "test_images": "all/{image_id}"},
    )
    data = project / "data/raw"
    (data / "all").mkdir(parents=True)
    ids = [f"{number:03d}" for number in range(120)]
    labels = ["large" if number % 2 else "small" for number in range(120)]
    for number, name in enumerate(ids):
        write(data / "all" / f"{name}{suffix}", number, channels)
    lines = [f"{name},{label}\n" for name, label in zip(ids, labels, strict=True)]
    (data / "train.csv").write_text("image_id,label\n" + "".join(lines[:96]))
    (data / "sample_submission.csv").write_text("image_id,label\n" + "".join(f"{name},large\n" for name in ids[96:]))
    (project / "experiments/small.yaml").write_text(
        SMALL.replace("epochs: 2, batch_size: 64", "epochs: 6, batch_size: 16").replace(
            "encoder: test_resnet", f"encoder: test_resnet, in_chans: {channels}"
        )
        + f"image: {{size: 32, reader: {{name: image, params: {{channels: {channels}}}}}}}\n"
    )
    for script in ("check_data.py", "train.py", "predict.py", "submit.py"):
        if script == "train.py":
            expect(run_script(project, "make_folds.py", "--n-folds", "2"))
        arguments = {"check_data.py": ["--experiment", "small"], "submit.py": ["small"]}
        done = expect(run_script(project, script, *arguments.get(script, ["small", "--fold", "0"])))
        if script == "check_data.py":  # neither is 8-bit RGB: the line to normalise by is proposed, and trains
            [line] = [line for line in done.stdout.splitlines() if line.startswith("image: {prepare: ")]
            prepare = line.removeprefix("image: {").removesuffix("}")
            written = project / "experiments/small.yaml"
            written.write_text(written.read_text().replace("image: {size: 32, ", f"image: {{{prepare}, size: 32, "))
    submitted = dict(line.split(",") for line in (project / "submissions/small.csv").read_text().split()[1:])
    right = sum(submitted[name] == label for name, label in zip(ids[96:], labels[96:], strict=True))
    assert right >= 20, f"{right} of 24"
    with imported(project):
        from toolkit.images.readers import image as read

        first = read(data / "all" / f"000{suffix}", None, channels=channels)
        assert first.shape == (32, 32, channels)
        assert first.dtype == (np.uint8 if channels == 5 else np.float32)


def write(path: Path, number: int, channels: int) -> None:
    """A bright square, large or small, in the last two channels of noise."""
    pixels = np.random.default_rng(number).random((32, 32, channels)) * 0.4
    half = 13 if number % 2 else 3
    pixels[16 - half : 16 + half, 16 - half : 16 + half, -2:] += 0.5
    if path.suffix == ".tif":
        tifffile.imwrite(path, (pixels * 255).astype(np.uint8), photometric="minisblack", planarconfig="contig")
    else:
        save(path, (pixels[:, :, 0] * 4095).astype(np.uint16), PhotometricInterpretation="MONOCHROME1")
