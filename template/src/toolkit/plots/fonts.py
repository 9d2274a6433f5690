"""Characters that the font of a picture lacks: taken from another installed font, or written as escapes."""

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

FOUND: dict[str, str | None] = {}  # character -> a family that has it; none: no installed font has


def fit_fonts(figure: "Figure") -> None:
    """Let every text of a figure be drawn: names of classes and ids may be of any script.

    What no installed font has is written as an escape (`\\u732b`), which is said once.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter):
                labels = axis.get_ticklabels()
                fitted = [_fitted(label) for label in labels]
                if fitted != [label.get_text() for label in labels]:  # or drawing would put the old ones back
                    axis.set_ticks(axis.get_ticklocs(), labels=fitted)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if (readable := _fitted(text)) != text.get_text():
            text.set_text(readable)


def _fitted(text: "Text") -> str:
    """The content of a text with escapes for what no font has; the text gets the fonts that its characters need."""
    from matplotlib.font_manager import findfont, get_font

    content = text.get_text()
    if content.isascii() and content.replace("\n", "").isprintable():
        return content
    drawn = get_font(findfont(text.get_fontproperties())).get_charmap()
    missing = {one for one in content if one != "\n" and ord(one) not in drawn}
    _look_up(missing - FOUND.keys())
    others = {family for one in missing if (family := FOUND[one]) is not None}
    text.set_fontfamily([*text.get_fontfamily(), *sorted(others - {*text.get_fontfamily()})])
    escaped = {one: one.encode("unicode_escape").decode() for one in missing if FOUND[one] is None}
    return "".join(escaped.get(one, one) for one in content)


def _look_up(characters: set[str]) -> None:
    """Find a family for each of these characters: as few families as possible."""
    if not characters:
        return
    from matplotlib.font_manager import findSystemFonts, fontManager, get_font

    known = {entry.fname for entry in fontManager.ttflist}  # a list that matplotlib made once and keeps in a file
    for path in set(findSystemFonts()) - known:
        with contextlib.suppress(Exception):  # no font that it can read
            fontManager.addfont(path)
    has: dict[str, set[str]] = {}
    for entry in sorted(fontManager.ttflist, key=lambda entry: ("sans" not in entry.name.lower(), entry.name)):
        if entry.name not in has and not entry.name.startswith("Last Resort"):  # which has a box for everything
            with contextlib.suppress(Exception):
                has[entry.name] = characters & {chr(code) for code in get_font(entry.fname).get_charmap()}
    left = set(characters)
    while left and has and (best := max(has, key=lambda name: len(has[name] & left))) and has[best] & left:
        FOUND.update(dict.fromkeys(has[best] & left, best))
        left -= has[best]
    if left and None not in FOUND.values():
        some = ", ".join(one.encode("unicode_escape").decode() for one in sorted(left)[:3])
        print(
            f"note: no installed font has some characters of the names in pictures ({some}), which are written like "
            "that; install one that has, such as fonts-noto-cjk",
            file=sys.stderr,
            flush=True,
        )
    FOUND.update(dict.fromkeys(left))
