"""Ids are text. What happens to them on the way through a spreadsheet, a float or a file name is told here."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from toolkit.errors import listed

EXTENSION = re.compile(r"\.(jpe?g|png|tiff?|bmp|gif|webp|dcm|dicom|npy|npz)$", re.IGNORECASE)
FLOAT = re.compile(r"\d+\.0+")


@dataclass(frozen=True)
class Damage:
    """One thing that can happen to ids: both sides become equal when it is undone on one and done to the other."""

    what: str
    remedy: str
    expected: Callable[[str], str | None]
    found: Callable[[str], str | None]


def _same(text: str) -> str | None:
    return text


def _stem(text: str) -> str | None:
    """The id without an image's extension; none when it has no such extension. Other dots belong to the id."""
    return EXTENSION.sub("", text) if EXTENSION.search(text) else None


def _without_zeros(text: str) -> str | None:
    return text.lstrip("0") or "0"


def _from_float(text: str) -> str | None:
    return text.partition(".")[0].lstrip("0") or "0" if FLOAT.fullmatch(text) else None


def _file_name(text: str) -> str | None:
    return text.replace("\\", "/").rpartition("/")[2]


DAMAGES = (
    Damage("with spaces around", "strip them", _same, str.strip),
    Damage("turned into floats", "read ids as text: read_csv(dtype=str)", _without_zeros, _from_float),
    Damage("with leading zeros lost", "read ids as text: read_csv(dtype=str)", _without_zeros, _same),
    Damage("with the extension lost", "keep the ids of the table, not of the file names", _stem, _same),
    Damage("with an extension added", "keep the ids of the table, not the file names", _same, _stem),
    Damage("with another extension", "keep the ids of the table, not of the files", _stem, _stem),
    Damage("with a folder in front", "keep the file name only", _same, _file_name),
    Damage("with the folder lost", "keep the ids of the table, not of the file names", _file_name, _same),
    Damage("in another case", "write them exactly", str.lower, str.lower),
)


@dataclass(frozen=True)
class IdDifference:
    """How two collections of ids differ.

    Attributes:
        damaged: (what happened and the remedy, pairs of found and expected id), one entry for each thing that happened.
        missing: ids that were expected and are not there, damaged ones aside.
        extra: ids that are there and were not expected, damaged ones aside.
    """

    damaged: list[tuple[Damage, list[tuple[str, str]]]]
    missing: list[str]
    extra: list[str]

    def damage_texts(self) -> list[str]:
        """One line for each thing that happened."""
        return [
            f"{len(pairs)} {damage.what} ({listed(f'{found!r} for {wanted!r}' for found, wanted in pairs)}); "
            f"{damage.remedy}"
            for damage, pairs in self.damaged
        ]


def compare_ids(found: Iterable[str], expected: Iterable[str]) -> IdDifference:
    """Tell damaged ids from ids that are missing or too many. Both results keep their order."""
    found, expected = list(dict.fromkeys(found)), list(dict.fromkeys(expected))
    missing = dict.fromkeys(expected)
    extra = dict.fromkeys(found)
    for text in found:
        if text in missing:
            del missing[text], extra[text]
    damaged = []
    for damage in DAMAGES:
        wanted = {key: text for text in missing if (key := damage.expected(text)) is not None}
        pairs = []
        for text in list(extra):
            key = damage.found(text)
            if key is not None and key in wanted:
                pairs.append((text, wanted.pop(key)))
                del extra[text], missing[pairs[-1][1]]
        if pairs:
            damaged.append((damage, pairs))
    return IdDifference(damaged, list(missing), list(extra))
