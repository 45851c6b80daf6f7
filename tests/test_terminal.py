"""An answer in a terminal: it stays in its place while it appears, and what is not a terminal gets words alone."""

import io
import re

import pytest

from llada_v import terminal
from llada_v.charts import colour_of
from llada_v.terminal import Frame, Piece, Screen, cells, printable

WIDE = "日本"


class Tty(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self):
        return True


@pytest.fixture
def tty(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "41")
    monkeypatch.setenv("LINES", "8")
    return Tty()


def seen(written):
    """The lines of a terminal of endless height on which that was written, colours left out."""
    lines, row, column = [""], 0, 0
    for code, count, kind, letter in re.findall(r"(\x1b\[([0-9;]*)([A-Za-z]))|(.|\n)", written):
        if code and kind == "A":
            row -= int(count or 1)
        elif code and kind == "J":
            lines[row:] = [lines[row][:column]]
        elif letter == "\r":
            column = 0
        elif letter == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif letter:
            lines[row] = lines[row][:column] + letter + lines[row][column + 1 :]
            column += 1
        assert row >= 0
    return lines


def pieces(text, masked=()):
    words = re.findall(r" ?\S+|\n", text)
    return [Piece(word, 0.5, "masked" if place in masked else "kept") for place, word in enumerate(words)]


def test_frames_stand_where_the_one_before_stood_and_the_answer_takes_their_place(tty):
    screen = Screen(tty)
    tty.write("before\n")
    screen.show(Frame(1, 3, pieces("a red circle and two blue squares", range(1, 7))))
    first = seen(tty.getvalue())
    screen.show(Frame(2, 3, pieces("a red circle and two blue squares", (2,))))
    second = seen(tty.getvalue())
    screen.finish("a red circle")
    assert first[:2] == ["before", "a▒▒▒▒▒▒"] and "step 1, 1 of 7" in first[2]
    assert second[:2] == ["before", "a red▒ and two blue squares"]
    assert seen(tty.getvalue()) == ["before", "a red circle", ""]


def test_a_frame_is_never_higher_or_wider_than_the_terminal(tty):
    screen = Screen(tty)
    screen.show(Frame(1, 1, pieces(f"{'word ' * 60}{'x' * 190} {WIDE * 30}")))
    lines = seen(tty.getvalue())
    assert len(lines) <= 8 and "step 1" in lines[-1]
    assert all(cells(line) <= 40 for line in lines)


def test_colours_say_how_sure_the_model_was_and_can_be_left_out(tty, monkeypatch):
    red, green, blue = colour_of(0.5)
    screen = Screen(tty)
    assert f"\x1b[38;2;{red};{green};{blue}m" in screen.painted("a", Piece("a", 0.5, "kept"))
    assert terminal.BOLD in screen.painted("a", Piece("a", 0.5, "new"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert Screen(tty).painted("a", Piece("a", 0.5, "new")) == "a"


def test_where_there_is_no_terminal_only_the_answer_is_written():
    out = io.StringIO()
    screen = Screen(out)
    screen.note("hello")
    screen.show(Frame(1, 1, pieces("a b")))
    screen.finish("a b")
    assert out.getvalue() == "a b\n"


def test_words_cannot_steer_the_terminal():
    assert printable("a\x1b[2Jb\x07\r\nc\td\u202e\x9b") == "a[2Jb\nc    d"


def test_wide_letters_take_two_cells_and_combining_ones_none():
    assert cells(WIDE) == 4 and cells("e\u0301") == 1
