"""Files: yaml, json and what is written, each whole or not there; those of a download, or the archive they are in."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from ruamel.yaml import YAML, YAMLError

from toolkit.errors import UserError

PART = ".part"
FORBIDDEN = re.compile(r'[\x00-\x1f\\:*?"<>|]')
ZIP = ".zip"
OTHERS = (".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # archives that are unpacked by hand


class ImageError(UserError):
    """That an image cannot be read, and in two words why."""

    def __init__(self, message: str, kind: str = "unreadable image") -> None:
        super().__init__(message)
        self.kind = kind


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write to the temporary path that is yielded; on success it takes the place of `path`, on failure nothing changes.

    Raises:
        UserError: the disk is full or the folder cannot be written; what stood at `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}{PART}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            if os.name != "nt":  # a rename is only safe from a power cut once the folder is on disk
                folder = os.open(path.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a `UserError` where the disk is full or must not be written."""
    try:
        yield
    except OSError as error:
        what = f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        raise UserError(f"{what}, what was saved before is untouched, and the same command goes on") from error


def remove_parts(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for path in folder.rglob(f".*{PART}"):
        path.unlink(missing_ok=True)


def file_of(folder: Path, tag: str, suffix: str) -> Path:
    """The file below `folder` of what is logged under a tag, such as `scatter/ink`: the parts but the last are folders.

    A tag may hold the name of a head, which is that of a column: what some system takes in no file's name becomes `_`,
    and no part leads out of the folder.
    """
    parts = [FORBIDDEN.sub("_", part).strip() for part in tag.split("/")]
    *folders, name = [re.sub(r"\.+$", "_", part) for part in parts if part] or ["_"]
    return folder.joinpath(*folders, f"{name}{suffix}")


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a file that is not JSON is a `UserError` naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it or write it anew") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping in YAML 1.2 (`3e-4` is a number, `no` is a string)."""
    try:
        value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"cannot read {path}{line}: {problem}; mend the file") from error
    if not isinstance(value, dict | None):
        raise UserError(f"{path}: a mapping of settings is expected, not {type(value).__name__}")
    return value or {}


def parse_yaml_value(text: str, key: str = "value") -> Any:
    """The value of a `key=value` override, read as it would be in a file."""
    try:
        return YAML(typ="safe", pure=True).load(text) if text else ""
    except YAMLError as error:
        raise UserError(f"cannot read {key}={text}: {getattr(error, 'problem', error)}") from error


def dump_yaml(value: Any) -> str:
    """`value` (JSON types) as block-style YAML in the order of its keys."""
    yaml, stream = YAML(), StringIO()
    yaml.default_flow_style, yaml.width = False, 100
    yaml.dump(value, stream)
    return stream.getvalue()


def digest(content: bytes) -> str:
    """A short fingerprint of a file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_of(file: BufferedReader) -> str:
    """The same of an open file, of which only a part is in memory at a time; it is rewound afterwards."""
    found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    file.seek(0)
    return found


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
