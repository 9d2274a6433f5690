"""Where files are: in folders, and in zip archives, which are read as if they were folders (`train.zip/a.png`)."""

import functools
import os
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

from toolkit.errors import UserError

ZIP = ".zip"
# Other archives -> what unpacks one: nothing reads or unpacks them here.
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

    def find(self, name: str) -> ZipInfo | None:
        """The member of this name, with or without the top folder; none if it is not there."""
        return self.members.get(name) or self.members.get(name.removeprefix(self.top))

    @functools.cached_property
    def folders(self) -> dict[str, set[str]]:
        """Name of a folder, below `top` -> names of the files directly in it."""
        found: dict[str, set[str]] = {}
        for name in self.members:
            folder, _, file = name.rpartition("/")
            found.setdefault(folder, set()).add(file)
        return found

    def damage(self, error: Exception) -> UserError:
        """What is to be said when the archive cannot be read."""
        return UserError(f"cannot read the archive {shown(self.path)} ({error or 'damaged'}); download it again")


def archive_at(path: Path) -> tuple[Archive, str] | None:
    """The archive on the way to `path`, and the rest of the way; none where it leads through folders alone."""
    if ZIP not in str(path).lower():
        return None
    for position, part in enumerate(path.parts):
        if part.lower().endswith(ZIP):
            file = Path(*path.parts[: position + 1])
            if file.is_file():
                stat = file.stat()
                rest = "/".join(path.parts[position + 1 :])
                return _opened(file, stat.st_size, stat.st_mtime_ns, os.getpid()), rest
    return None


@functools.lru_cache(maxsize=32)
def _opened(file: Path, _size: int, _mtime_ns: int, _process: int) -> Archive:
    """One handle for each state of a file, and for each process: those that fork would share its position."""
    return Archive(file)


def is_file(path: Path) -> bool:
    """Whether there is one file of this path, in a folder or in an archive."""
    within = archive_at(path)
    return path.is_file() if within is None else within[0].find(within[1]) is not None


def read_bytes(path: Path) -> bytes:
    """The content of an image file, also of one in an archive.

    Raises:
        UserError: it is missing, empty or a folder, or its archive is damaged.
    """
    within = archive_at(path)
    try:
        if within is None:
            data = path.read_bytes()
        else:
            archive, name = within
            member = archive.find(name)
            if member is None:
                raise missing(path)
            data = archive.zip.read(member)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing(path) from error
    except IsADirectoryError as error:
        raise UserError(
            f"{shown(path)} is a folder, and an image file is expected; correct the image pattern in competition.yaml, "
            "or write a reader of your own that makes an image of such a folder"
        ) from error
    except DAMAGE as error:
        if within is not None:
            raise within[0].damage(error) from error
        raise UserError(f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise UserError(f"the image {shown(path)} is an empty file; download it again")
    return data


def missing(path: Path) -> UserError:
    """That there is no such image, with the archive that may hold it."""
    packed = next((found for folder in path.parents if (found := Path(f"{folder}{ZIP}")).is_file()), None)
    remedy = "download it, or correct the image pattern in competition.yaml (scripts/check_data.py finds all of them)"
    if packed is not None:
        remedy = f"unpack {packed.name} (scripts/check_data.py --unpack), or write {packed.name}/ in the image pattern"
    else:
        others = (Path(f"{folder}{ending}") for folder in path.parents for ending in UNPACK)
        other = next((found for found in others if found.is_file()), None)
        remedy = f"unpack {other.name}: {unpacking_command(other)}" if other is not None else remedy
    return UserError(f"there is no image {shown(path)}; {remedy}")


def unpacking_command(archive: Path) -> str:
    """The command that unpacks an archive which is no zip into the folder it lies in; empty for any other file."""
    command = next((UNPACK[ending] for ending in UNPACK if archive.name.lower().endswith(ending)), "")
    return command.format(file=shlex.quote(shown(archive)), folder=shlex.quote(shown(archive.parent)))


def names_in(folder: Path) -> set[str]:
    """Names of the files directly in a folder, which may be an archive or lie in one; empty where there is none."""
    within = archive_at(folder)
    if within is not None:
        archive, rest = within
        return archive.folders.get(rest) or archive.folders.get(f"{rest}/".removeprefix(archive.top).rstrip("/"), set())
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def files_below(folder: Path) -> Iterator[str]:
    """Paths from `folder`, with `/`, of all files below it; the same for an archive, or a folder in one."""
    within = archive_at(folder)
    if within is not None:
        archive, rest = within
        below = rest.rstrip("/") + "/" if rest else ""
        for info in archive.members.values():
            for name in (info.filename.removeprefix(archive.top), info.filename):
                if name.startswith(below):
                    yield name.removeprefix(below)
                    break
        return
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = (Path(place) / name).relative_to(folder).as_posix()
            if not _is_junk(path):
                yield path


def _is_junk(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/") if part not in (".", ".."))
