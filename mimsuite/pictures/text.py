"""How a text fits into a picture: on one line, no longer than there is room."""

from __future__ import annotations

from mimsuite.data.tar import to_text
from mimsuite.pictures.palette import Font


def one_line(text: str) -> str:
    """A text without line breaks, and without characters that cannot be drawn or printed."""
    return " ".join(to_text(text).split())


def cut(text: str, font: Font, width: int) -> str:
    """A text on one line, of which as much as fits into `width` pixels, with an ellipsis."""
    text = one_line(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def wrap(text: str, font: Font, width: int) -> list[str]:
    """A text in lines of at most `width` pixels, broken between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def keep_ends(name: str, most: int) -> str:
    """A name on one line, at most `most` characters; of a longer one both ends, which is where names differ."""
    name = one_line(name)
    ends = most - 3
    return name if len(name) <= most else f"{name[: ends // 2]}...{name[-(ends - ends // 2) :]}"


def keep_ends_within(name: str, font: Font, width: float) -> str:
    """A name on one line, at most `width` pixels wide; of a wider one both ends."""
    name = one_line(name)
    short, ends = name, len(name) // 2
    while font.getlength(short) > width:
        ends -= 1
        short = f"{name[:ends]}...{name[-ends:]}"
    return short


def escape_mathtext(text: str) -> str:
    """A text as matplotlib draws it as it is: a leading underscore hides a label, a dollar starts a formula."""
    return ("\u200b" + text if text.startswith("_") else text).replace("$", r"\$")
