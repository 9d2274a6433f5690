"""Files of a download: read with errors that say what to do, listed, and the archives they may still be packed in."""

import os
from collections.abc import Iterator
from pathlib import Path

from toolkit.errors import UserError

ZIP = ".zip"
OTHERS = (".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # archives that are unpacked by hand


class ImageError(UserError):
    """That an image cannot be read, and in two words why."""

    def __init__(self, message: str, kind: str = "unreadable image") -> None:
        super().__init__(message)
        self.kind = kind


def shown(path: Path) -> str:
    """`path` as it would be typed in the current folder."""
    folder = Path.cwd()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def read_bytes(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        UserError: it is missing, empty or a folder.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise missing(path) from error
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    if not data:
        raise UserError(f"the image {shown(path)} is an empty file; download it again")
    return data


def missing(path: Path) -> UserError:
    """That there is no such image file, with the archive that may hold it."""
    if path.is_dir():
        return UserError(f"{shown(path)} is a folder; correct the image pattern, or write a reader of your own for it")
    beside = (Path(f"{folder}{ending}") for folder in path.parents for ending in (ZIP, *OTHERS))
    packed = archive_above(path) or next((file for file in beside if file.is_file()), None)
    how = "download it, or correct the image pattern in competition.yaml (scripts/check_data.py finds all of them)"
    if packed:
        by = "scripts/check_data.py --unpack" if packed.suffix.lower() == ZIP else "7z, unrar or tar"
        how = f"unpack {packed.name}: {by}"
        if packed in path.parents:  # it is not read in place
            how += f", and write {packed.stem}/ in the image pattern"
    return ImageError(f"there is no image {shown(path)}; {how}", "missing image")


def archive_above(path: Path) -> Path | None:
    """The zip archive that `path` leads into, as `train.zip/a.png` does; none where it leads through folders alone."""
    return next((folder for folder in path.parents if folder.suffix.lower() == ZIP and folder.is_file()), None)


def files_below(folder: Path) -> Iterator[str]:
    """Paths from `folder`, with `/`, of all files below it; hidden ones, and what macOS adds, are left out."""
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = (Path(root) / name).relative_to(folder).as_posix()
            if not is_junk(path):
                yield path


def is_junk(name: str) -> bool:
    """Whether a path is one of a hidden file, or of what macOS adds to an archive."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/") if part not in (".", ".."))
