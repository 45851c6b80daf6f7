"""An answer that appears in a terminal: its tokens in place, coloured by how sure the model was of them.

    screen = Screen()
    screen.show(Frame(step, num_steps, pieces))    # as often as there are steps
    screen.finish("the whole answer")

Plain ANSI, nothing else. Where the output is no terminal, only the finished text is written. It knows no model: pieces
of text with a probability go in.
"""

import os
import shutil
import sys
import unicodedata
from dataclasses import dataclass

from .charts import colour_of

MASK_TEXT = "▒"
RESET, DIM, BOLD = "\x1b[0m", "\x1b[2m", "\x1b[1m"
UP_AND_CLEAR, CLEAR = "\x1b[{}A\r\x1b[J", "\r\x1b[J"
BAR = 24  # cells of the bar below an answer


@dataclass(frozen=True)
class Piece:
    """One token of an answer: its text, its probability, and whether it is "masked", "new" in this step or "kept"."""

    text: str
    probability: float
    state: str


@dataclass(frozen=True)
class Frame:
    """An answer after a step: the pieces up to its end, the steps taken and the most that can be taken."""

    step: int
    num_steps: int
    pieces: list[Piece]


class Screen:
    """Where answers are drawn, one over the other until it is finished."""

    def __init__(self, out=None):
        """out: a text file; None is standard output."""
        self.out = sys.stdout if out is None else out
        self.is_live = self.out.isatty() and os.environ.get("TERM") != "dumb"
        self.has_colours = self.is_live and not os.environ.get("NO_COLOR")
        self.height = 0  # lines that the last frame took

    def show(self, frame: Frame) -> None:
        """Draw a step over the one before; nothing where the output is no terminal."""
        if not self.is_live:
            return
        columns, rows = shutil.get_terminal_size()
        lines = self.lines_of(frame.pieces, columns - 1)[-max(1, rows - 3) :]
        lines.append(self.status_of(frame, columns - 1))
        self.erase()
        self.out.write("\n".join(lines))
        self.out.flush()
        self.height = len(lines)

    def finish(self, text: str) -> None:
        """The finished answer in place of its steps."""
        self.erase()
        self.out.write(printable(text) + "\n")
        self.out.flush()

    def erase(self) -> None:
        """Take away the last frame."""
        if self.height:
            self.out.write(UP_AND_CLEAR.format(self.height - 1) if self.height > 1 else CLEAR)
        self.height = 0

    def note(self, text: str) -> None:
        """A line about what happens, apart from what is said; nothing where the output is no terminal."""
        if self.is_live:
            self.out.write(f"{self.styled(printable(text), DIM)}\n")
            self.out.flush()

    def lines_of(self, pieces: list[Piece], width: int) -> list[str]:
        """The pieces as lines of at most `width` cells, broken between pieces where possible."""
        lines, line, used = [], "", 0
        for piece in pieces:
            text = MASK_TEXT if piece.state == "masked" else printable(piece.text)
            for number, part in enumerate(text.split("\n")):
                if number or used and used + cells(part) > width:
                    lines.append(line)
                    line, used = "", 0
                    part = part if number else part.lstrip(" ")
                while cells(part) > width:
                    head = fitting(part, width)
                    lines.append(self.painted(head, piece))
                    part = part[len(head) :]
                line += self.painted(part, piece)
                used += cells(part)
        return [*lines, line]

    def painted(self, text: str, piece: Piece) -> str:
        """A piece's text in its colour."""
        if not text:
            return ""
        if piece.state == "masked":
            return self.styled(text, DIM)
        red, green, blue = colour_of(piece.probability)
        return self.styled(text, f"\x1b[38;2;{red};{green};{blue}m" + (BOLD if piece.state == "new" else ""))

    def styled(self, text: str, style: str) -> str:
        """Text in a style, where the terminal has any."""
        return f"{style}{text}{RESET}" if self.has_colours else text

    def status_of(self, frame: Frame, width: int) -> str:
        """How far the answer is."""
        revealed = sum(piece.state != "masked" for piece in frame.pieces)
        share = revealed / max(1, len(frame.pieces))
        bar = "━" * round(BAR * share) + "─" * (BAR - round(BAR * share))
        return self.styled(f"{bar} step {frame.step}, {revealed} of {len(frame.pieces)} tokens"[:width], DIM)


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control characters but the line break are gone, a tab is four spaces."""
    text = text.replace("\t", "    ")
    return "".join(letter for letter in text if letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf"))


def cells(text: str) -> int:
    """How many cells of a terminal a text takes: two for wide letters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def fitting(text: str, width: int) -> str:
    """As much of a text's beginning as fits, at least one letter."""
    end = 1
    while end < len(text) and cells(text[: end + 1]) <= width:
        end += 1
    return text[:end]
