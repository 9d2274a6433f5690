"""`check_data.py --unpack`: zip archives become folders, each of them whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import ZipInfo

from filelock import FileLock, Timeout
from rich.filesize import decimal

from pipeline.settings import Settings
from toolkit.archives import DAMAGE, ZIP, Archive, shown, unpacking_command
from toolkit.errors import UserError
from toolkit.files import writing
from toolkit.terminal import console, progress

DRAFT = ".unpack."  # what the names of unfinished folders begin with
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
            held = FileLock(data / ".unpack.lock").acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"another process is unpacking in {shown(data)}; wait for it, or end it") from error
        with held:
            for left in data.glob(f"{DRAFT}*/"):  # of a process that was killed
                shutil.rmtree(left)
            _unpack_all(data, settings)


def _unpack_all(data: Path, settings: Settings) -> None:
    done: set[Path] = set()
    owners: dict[str, str] = {}
    while found := [path for path in sorted(data.glob("*")) if path.suffix.lower() == ZIP and path not in done]:
        plans = [(path, archive := Archive(path), _members(archive, settings)) for path in found]
        for path, _, members in plans:
            for name in members:
                if owners.setdefault(name, path.name) != path.name:
                    raise UserError(f"{owners[name]} and {path.name} both hold {name}; remove one of them")
        for path, archive, members in plans:
            _unpack_one(data, archive, members)
            done.add(path)
    commands = [command for path in sorted(data.glob("*")) if (command := unpacking_command(path))]
    if not done and not commands:
        raise UserError(f"there is no {ZIP} archive in {shown(data)}; put Kaggle's download there")
    if commands and not done:
        raise UserError(
            f"there is no {ZIP} archive in {shown(data)}; what is there is unpacked by: {'; '.join(commands)}"
        )
    for command in commands:
        console().print(f"note: this archive is no {ZIP}, and is unpacked by: {command}", soft_wrap=True)


def _members(archive: Archive, settings: Settings) -> Members:
    stem = archive.path.stem
    tables = (settings.train_csv, settings.test_csv, settings.sample_submission)
    whole = any(table in archive.members for table in tables)
    fills = whole or stem == settings.competition
    alone = list(archive.members) == [stem]
    members: dict[str, ZipInfo] = {}
    for info in archive.infos():
        name = info.filename
        if ".." in name.split("/") or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
            raise UserError(f"{archive.path.name} holds '{name}', which lies outside of it; do not trust this archive")
        if whole or archive.top == f"{stem}/":
            name = name.removeprefix(archive.top)
        path = PurePosixPath(name if fills or alone else f"{stem}/{name}").as_posix()
        if path in members:
            raise UserError(f"{archive.path.name} holds '{info.filename}' twice; unpack it by hand")
        members[path] = info
    if not members:
        raise UserError(f"{archive.path.name} holds no file; download it again")
    return members


def _unpack_one(data: Path, archive: Archive, members: Members) -> None:
    out = console()
    entries: dict[str, dict[str, ZipInfo]] = {}  # what is renamed as one: a file or a folder in the data folder
    for path, info in members.items():
        entries.setdefault(path.partition("/")[0], {})[path] = info
    new = {name: parts for name, parts in entries.items() if not _is_there(data, name, parts, archive)}
    if not new:
        out.print(f"{archive.path.name} is unpacked already", soft_wrap=True)
        return
    needed, free = (
        sum(info.file_size for parts in new.values() for info in parts.values()),
        shutil.disk_usage(data).free,
    )
    if needed > free:
        raise UserError(
            f"{archive.path.name} needs {decimal(needed)}, and {decimal(free)} are free at {shown(data)}; free space, "
            "or read the images in place: write the name of the archive into the image pattern"
        )
    draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=data))
    try:
        draft.chmod(0o755)
        jobs = [job for parts in new.values() for job in parts.items()]
        for path, info in progress(jobs, f"unpacking {archive.path.name}"):
            _extract(archive, info, draft / path)
        if hasattr(os, "sync"):
            os.sync()  # a name must not be on disk before what it names
        for name in new:
            (draft / name).rename(data / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    out.print(f"{archive.path.name}: {len(jobs):,} files in {shown(data)} ({', '.join(sorted(new))})", soft_wrap=True)


def _extract(archive: Archive, info: ZipInfo, target: Path) -> None:
    """Write one member; its checksum is looked at."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.zip.open(info) as member, target.open("xb") as file:
            shutil.copyfileobj(member, file, 2**20)
    except OSError:
        raise  # the disk's fault, not the archive's
    except DAMAGE as error:
        raise archive.damage(error) from error


def _is_there(data: Path, name: str, parts: Members, archive: Archive) -> bool:
    """Whether an entry was unpacked before.

    Raises:
        UserError: something of its name is there, and it is not what the archive holds.
    """
    if not (data / name).exists():
        return False
    for path, info in parts.items():
        there = data / path
        if not there.is_file() or there.stat().st_size != info.file_size:
            raise UserError(
                f"{shown(data / name)} is there and is not what {archive.path.name} holds ({path} differs); "
                "move it away"
            )
    return True
