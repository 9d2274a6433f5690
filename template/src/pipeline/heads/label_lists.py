"""Lists of labels in one cell: with spaces between them, `|`, `;` or `,`, or as Python and json write a list."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

MARKS = ("|", ";", ",")
BRACKETS = ("[]", "()", "{}")
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


@dataclass(frozen=True)
class ListForm:
    """How a cell lists labels.

    Attributes:
        separator: what stands between two of them.
        quote: what stands around each of them.
        brackets: what stands around all of them.
    """

    separator: str = " "
    quote: str = ""
    brackets: str = ""

    def __str__(self) -> str:
        """As a person is told."""
        if self.brackets:
            return f"written like {self.write(['a', 'b'])}"
        return "divided by " + (f"'{self.separator.strip()}'" if self.separator.strip() else "spaces")

    def write(self, labels: Sequence[str]) -> str:
        """The cell of these labels."""
        listed = self.separator.join(f"{self.quote}{label}{self.quote}" for label in labels)
        return f"{self.brackets[:1]}{listed}{self.brackets[1:]}"

    def read(self, cell: str) -> list[str]:
        """The labels of a cell, in their order."""
        text = cell.strip()
        if self.brackets:
            if not _brackets(text):
                return [text] if text else []
            text = text[1:-1]
        if self.quote and QUOTED.search(text):
            return [one or other for one, other in QUOTED.findall(text)]
        return [part.strip() for part in text.split(self.separator.strip() or None) if part.strip()]


SPACES = ListForm()


def form_of(cells: Iterable[str]) -> ListForm:
    """The form in which cells list labels, recognised by what they hold; spaces where nothing speaks for another."""
    texts = list(dict.fromkeys(text for cell in cells if (text := cell.strip())))
    if texts and all(map(_brackets, texts)):
        return _of_brackets(texts)
    words = {word for text in texts for word in text.split()}
    for mark in MARKS:
        listing = [text for text in texts if mark in text]
        if not listing:
            continue
        parts = [part.strip() for text in texts for part in text.split(mark) if part.strip()]
        # A mark may belong to a label's name. Where it divides, the same parts come again in other cells.
        if len(set(parts)) <= len(words) or (mark != "," and not any(len(part.split()) > 1 for part in parts)):
            return ListForm(_around(mark, listing[0]))
    return SPACES


def form_for(cells: Sequence[str], classes: Collection[str], separator: str = "") -> ListForm | None:
    """The form in which a sample submission lists labels; none where no cell of it shows one.

    Args:
        separator: what divides lists where no cell shows it, if that is known.
    """
    shown = [cell for cell in cells if cell.strip() and cell.strip() not in classes]
    for mark in MARKS:
        for cell in shown:
            words = ListForm(mark).read(cell)
            if len(words) > 1 and all(word in classes for word in words):
                return ListForm(_around(mark, cell))
    found = form_of(shown)
    if found != SPACES or any(len(cell.split()) > 1 for cell in shown):
        return found
    return ListForm(separator) if separator else None


def read_list(cell: str, classes: Collection[str], separator: str = "") -> list[str]:
    """The labels of a cell: by the separator, or else in the form of which all words are classes, or most of them."""
    if separator:
        return ListForm(separator).read(cell)
    text = cell.strip()
    if text in classes:
        return [text]
    best: list[str] = SPACES.read(text)
    for form in (SPACES, *([_of_brackets([text])] if _brackets(text) else []), *map(ListForm, MARKS)):
        words = form.read(text)
        if all(word in classes for word in words):
            return words
        if _share(words, classes) > _share(best, classes):
            best = words
    return best


def _around(mark: str, text: str) -> str:
    """The first such mark of a text with the spaces around it."""
    found = re.search(rf"\s*{re.escape(mark)}\s*", text)
    return found[0] if found else mark


def _share(words: Sequence[str], classes: Collection[str]) -> float:
    return sum(word in classes for word in words) / max(len(words), 1)


def _brackets(text: str) -> str:
    """The brackets around a text; empty where there are none."""
    return next((pair for pair in BRACKETS if text[:1] == pair[0] and text[-1:] == pair[1]), "")


def _of_brackets(texts: Sequence[str]) -> ListForm:
    """The form of lists in brackets, by the first one that has several labels."""
    text = next((text for text in texts if len(QUOTED.findall(text)) > 1 or "," in text), texts[0])
    inner, brackets = text[1:-1], _brackets(text)
    quoted = list(QUOTED.finditer(inner))
    if quoted:
        between = inner[quoted[0].end() : quoted[1].start()] if len(quoted) > 1 else ", "
        return ListForm(between, quoted[0][0][0], brackets)
    mark = re.search(r"\s*,\s*", inner)
    return ListForm(mark[0] if mark else " " if len(inner.split()) > 1 else ", ", "", brackets)
