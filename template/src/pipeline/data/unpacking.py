"""`check_data.py --unpack`: zip archives become folders, each of them whole or not at all."""

import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from filelock import FileLock, Timeout
from rich.filesize import decimal

from pipeline.settings import Settings
from toolkit.errors import UserError
from toolkit.files import OTHERS, ZIP, is_junk, shown, writing
from toolkit.terminal import progress

DRAFT = ".unpack."  # what the names of unfinished folders begin with
DAMAGE = (BadZipFile, zlib.error, EOFError, RuntimeError)  # of a damaged, encrypted or exotic archive
Members = Mapping[str, ZipInfo]  # path below the data folder -> what is unpacked there


def unpack(data: Path, settings: Settings) -> None:
    """Unpack every archive that lies directly in the data folder, and those that were in one of them.

    `train.zip` becomes the folder `train`, which is not doubled where the archive holds it itself. `train.csv.zip`
    becomes `train.csv`. An archive that is named as the competition, or holds its tables, fills the data folder. What
    is there already, with all its files in their size, stays; the archives stay as well.

    Raises:
        UserError: no archive; one that is damaged or would write elsewhere; two that hold the same file; a file that
            is there and is another one; too small a disk. What was unpacked before stays.
    """
    with writing(data):
        try:
            lock = FileLock(data / ".unpack.lock").acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"another process is unpacking in {shown(data)}; wait for it, or end it") from error
        with lock:
            for draft in data.glob(f"{DRAFT}*/"):  # of a process that was killed
                shutil.rmtree(draft)
            _unpack_all(data, settings)


def _unpack_all(data: Path, settings: Settings) -> None:
    done: set[Path] = set()
    owners: dict[str, Path] = {}
    while found := {path for path in data.glob("*") if path.suffix.lower() == ZIP} - done:
        archives = {path: _opened(path, settings) for path in sorted(found)}
        for name, path in ((name, path) for path, (_, members) in archives.items() for name in members):
            if owners.setdefault(name, path) != path:
                raise UserError(f"{owners[name].name} and {path.name} both hold {name}; remove one of them")
        for path, (archive, members) in archives.items():
            _unpack_one(data, path, archive, members)
        done |= found
    others = [path.name for path in sorted(data.glob("*")) if path.name.lower().endswith(OTHERS)]
    note = f"to be unpacked by hand, with 7z, unrar or tar: {', '.join(others)}"
    if not done:
        raise UserError(f"there is no {ZIP} archive in {shown(data)}; {note if others else 'download the data again'}")
    if others:
        print(note)


def _opened(path: Path, settings: Settings) -> tuple[ZipFile, Members]:
    """The archive, and where its files go; see `unpack`."""
    try:
        archive = ZipFile(path)
    except (*DAMAGE, OSError) as error:
        raise _damaged(path, error) from error
    infos = [info for info in archive.infolist() if not info.is_dir() and not is_junk(info.filename)]
    names = [info.filename for info in infos]
    tops = {first + slash for first, slash, _ in (name.partition("/") for name in names)}
    top = tops.pop() if len(tops) == 1 and all("/" in name for name in names) else ""
    tables = {settings.train_csv, settings.test_csv, settings.sample_submission}
    has_tables = not tables.isdisjoint(name.removeprefix(top) for name in names)
    folder = "" if has_tables or path.stem == settings.competition or names == [path.stem] else f"{path.stem}/"
    members: dict[str, ZipInfo] = {}
    for name, info in zip(names, infos, strict=True):
        if ".." in name.split("/") or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
            raise UserError(f"{path.name} holds '{name}', which lies outside of it; do not trust this archive")
        inner = name.removeprefix(top) if has_tables or top == f"{path.stem}/" else name
        target = PurePosixPath(folder + inner).as_posix()
        if target in members:
            raise UserError(f"{path.name} holds '{name}' twice; unpack it by hand")
        members[target] = info
    if not members:
        raise UserError(f"{path.name} holds no file; download it again")
    return archive, members


def _unpack_one(data: Path, path: Path, archive: ZipFile, members: Members) -> None:
    entries = {name.partition("/")[0] for name in members}  # what is renamed as one: a file or a folder
    there = {entry for entry in entries if (data / entry).exists()}
    for name, info in members.items():
        is_same = (data / name).is_file() and (data / name).stat().st_size == info.file_size
        if (entry := name.partition("/")[0]) in there and not is_same:
            what = f"{shown(data / entry)} is there and is not what {path.name} holds ({name} differs)"
            raise UserError(f"{what}; move it away")
    if entries == there:
        print(f"{path.name} is unpacked already")
        return
    jobs = [(name, info) for name, info in members.items() if name.partition("/")[0] not in there]
    needed, free = sum(info.file_size for _, info in jobs), shutil.disk_usage(data).free
    if needed > free:
        raise UserError(f"{path.name} needs {decimal(needed)}, and {decimal(free)} are free at {shown(data)}")
    with tempfile.TemporaryDirectory(prefix=DRAFT, dir=data, ignore_cleanup_errors=True) as draft:
        for name, info in progress(jobs, f"unpacking {path.name}"):
            info.filename = name  # where it is extracted to
            try:
                archive.extract(info, draft)
            except DAMAGE as error:
                raise _damaged(path, error) from error
        if hasattr(os, "sync"):
            os.sync()  # a name must not be on disk before what it names
        for entry in entries - there:
            Path(draft, entry).rename(data / entry)
    print(f"{path.name}: {len(jobs):,} files in {shown(data)} ({', '.join(sorted(entries - there))})")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"cannot read the archive {shown(path)} ({error or 'damaged'}); download it again")
