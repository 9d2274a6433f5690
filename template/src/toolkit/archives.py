"""Files of a download: read with errors that say what to do, listed, and the archives they may still be packed in."""

import os
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

from toolkit.errors import UserError

ZIP = ".zip"
# Other archives -> what unpacks one: nothing unpacks them here.
UNPACK = {
    ".7z": "7z x {file} -o{folder}",
    ".rar": "unrar x {file} {folder}/",
    ".tar": "tar -xf {file} -C {folder}",
    ".tar.gz": "tar -xf {file} -C {folder}",
    ".tgz": "tar -xf {file} -C {folder}",
    ".tar.bz2": "tar -xf {file} -C {folder}",
    ".tar.xz": "tar -xf {file} -C {folder}",
}
# What a damaged, encrypted or exotic archive makes of reading a member.
DAMAGE = (BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


def shown(path: Path) -> str:
    """`path` as it would be typed in the current folder."""
    folder = Path.cwd()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


class Archive:
    """A zip archive that is open for reading.

    Attributes:
        top: the one folder that holds all members, as `train/`; empty where there is none.
        members: name below `top` -> the member. Folders, and what macOS adds, are left out.

    Raises:
        UserError: the file is damaged or no archive; it is named.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.zip = ZipFile(path)
        except DAMAGE as error:
            raise self.damage(error) from error
        infos = {info.filename: info for info in self.infos()}
        first = next(iter(infos), "").partition("/")
        alone = bool(first[1]) and all(name.startswith(first[0] + "/") for name in infos)
        self.top = first[0] + "/" if alone else ""
        self.members = {name.removeprefix(self.top): info for name, info in infos.items()}

    def infos(self) -> Iterator[ZipInfo]:
        """Every file in it, also those of one name."""
        return (info for info in self.zip.infolist() if not info.is_dir() and not _is_junk(info.filename))

    def damage(self, error: Exception) -> UserError:
        """What is to be said when the archive cannot be read."""
        return UserError(f"cannot read the archive {shown(self.path)} ({error or 'damaged'}); download it again")


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
        return UserError(
            f"{shown(path)} is a folder, and an image file is expected; correct the image pattern in competition.yaml, "
            "or write a reader of your own that makes an image of such a folder"
        )
    remedy = "download it, or correct the image pattern in competition.yaml (scripts/check_data.py finds all of them)"
    endings = (ZIP, *UNPACK)
    beside = (file for folder in path.parents for ending in endings if (file := Path(f"{folder}{ending}")).is_file())
    if inside := archive_above(path):
        remedy = (
            f"images in {inside.name} are not read in place: unpack it (scripts/check_data.py --unpack), and write "
            f"{inside.stem}/ in the image pattern"
        )
    elif packed := next(beside, None):
        remedy = f"unpack {packed.name}: {unpacking_command(packed) or 'scripts/check_data.py --unpack'}"
    return UserError(f"there is no image {shown(path)}; {remedy}")


def archive_above(path: Path) -> Path | None:
    """The zip archive that `path` leads into, as `train.zip/a.png` does; none where it leads through folders alone."""
    return next((folder for folder in path.parents if folder.suffix.lower() == ZIP and folder.is_file()), None)


def unpacking_command(archive: Path) -> str:
    """The command that unpacks an archive which is no zip into the folder it lies in; empty for any other file."""
    command = next((UNPACK[ending] for ending in UNPACK if archive.name.lower().endswith(ending)), "")
    return command.format(file=shlex.quote(shown(archive)), folder=shlex.quote(shown(archive.parent)))


def names_in(folder: Path) -> set[str]:
    """Names of the files directly in a folder; empty where there is none."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def files_below(folder: Path) -> Iterator[str]:
    """Paths from `folder`, with `/`, of all files below it; hidden ones, and what macOS adds, are left out."""
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = (Path(root) / name).relative_to(folder).as_posix()
            if not _is_junk(path):
                yield path


def _is_junk(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/") if part not in (".", ".."))
