"""Files that are either whole or not there: yaml, json, and atomic writing."""

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
