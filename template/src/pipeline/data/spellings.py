"""One thing in several spellings: labels, groups and ids that differ by case, spaces, accents or `.0` only."""

import re
import unicodedata
from collections.abc import Callable, Iterable

from pipeline.data.tables import is_image

NUMBER = re.compile(r"([+-]?)0*(\d+)(?:\.(\d*?)0*)?")
WHOLE = re.compile(r"([+-]?\d+)\.0*")
INVISIBLE = re.compile("[\u200b\u200c\u200d\u2060\ufeff\u00ad]")  # zero-width characters, soft hyphens
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")


def strict(text: str) -> str:
    """Equal for spellings that cannot mean two things: other spaces, another Unicode form, `1.0` for `1`."""
    plain = " ".join(INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())
    whole = WHOLE.fullmatch(plain)
    return whole[1] if whole else plain


def loose(text: str) -> str:
    """Equal for spellings that most likely mean one thing: the case and leading zeros besides."""
    plain = strict(unicodedata.normalize("NFKC", text)).casefold()
    number = NUMBER.fullmatch(plain)
    if number is None:
        return plain
    return number[1].replace("+", "") + number[2] + (f".{number[3]}" if number[3] else "")


def loose_id(text: str) -> str:
    """Like `loose`; a folder in front and the extension of an image do not count either."""
    name = strict(text).replace("\\", "/").rpartition("/")[2]
    return loose(name.rpartition(".")[0] if is_image(name) else name)


def alike(values: Iterable[str], key: Callable[[str], str] = loose) -> list[list[str]]:
    """Sets of different texts with the same key, in the order in which they come."""
    found: dict[str, list[str]] = {}
    for text in dict.fromkeys(values):
        found.setdefault(key(text), []).append(text)
    return [texts for texts in found.values() if len(texts) > 1]


def counterparts(theirs: Iterable[str], ours: Iterable[str], key: Callable[[str], str] = loose) -> dict[str, str]:
    """Those of their texts that are none of ours, with the first of ours that is spelled otherwise only."""
    known = dict.fromkeys(ours)
    by_key = {key(text): text for text in reversed(known)}
    return {text: by_key[key(text)] for text in dict.fromkeys(theirs) if key(text) in by_key and text not in known}


def answers(texts: Iterable[str]) -> dict[str, list[str]]:
    """`yes` and `no` with their spellings, where all of the texts say one of the two, and it in several words."""
    words = {text: loose(text) for text in texts}
    if not set(words.values()) <= {*TRUE, *FALSE}:
        return {}
    found = {word: [text for text in words if words[text] in same] for word, same in (("yes", TRUE), ("no", FALSE))}
    return {word: same for word, same in found.items() if len({words[text] for text in same}) > 1}
