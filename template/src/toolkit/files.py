"""Files that are either whole or not there: yaml, json, and atomic writing."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import UserError
from toolkit.plots.fonts import fit_fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PART = ".part"
FORBIDDEN = re.compile(r'[\x00-\x1f\\:*?"<>|]')


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write to the temporary path that is yielded; on success it takes the place of `path`, on failure nothing changes.

    Raises:
        UserError: the disk is full or the folder cannot be written; what stood at `path` is untouched.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder, "
            "what was saved before is untouched"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A full or forbidden disk as a `UserError`, for what goes on where it was cut off."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; free space or choose another disk, "
            "and the same command goes on"
        ) from error


def remove_parts(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for path in folder.rglob(f".*{PART}"):
        path.unlink(missing_ok=True)


def _umask() -> int:
    """mkstemp makes private files; a run folder is to be shared as any other file is."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """A rename is only safe from a power cut once the folder is on disk; Windows has no such call."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a matplotlib figure as PNG, atomically."""
    fit_fonts(figure)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")


def read_json(path: Path) -> Any:
    """Read JSON; a file that is not JSON is a `UserError` naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it or write it anew") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping in YAML 1.2 (`3e-4` is a number, `no` is a string)."""
    from ruamel.yaml import YAML, YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{path}{line}: {problem}; mend the file") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: a mapping of settings is expected, not {type(value).__name__}")
    return value


def parse_yaml_value(text: str) -> Any:
    """The value of a `key=value` override, read as it would be in a file."""
    from ruamel.yaml import YAML, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text) if text else ""
    except YAMLError as error:
        raise UserError(f"cannot read the value {text!r}: {getattr(error, 'problem', error)}") from error


def dump_yaml(value: Any) -> str:
    """`value` (JSON types) as block-style YAML in the order of its keys."""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    stream = StringIO()
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
