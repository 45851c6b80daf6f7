"""The words signs can carry, and the 5x7 dot letters they are printed in.

The letters are data, not a font file: a picture then depends on no font of the machine and no build of Pillow.
"""

LETTER_HEIGHT = 7
"""Dots from the top to the bottom of a letter."""

LETTER_WIDTH = 5
"""Dots from the left to the right of a letter; one empty column follows, except after the last letter."""

WORDS = tuple(
    """
    ANT BAG BED BOX BUS CAP CAR CAT COW CUP DOG EAR EGG EYE FAN FLY FOX GEM HAT HEN
    ICE INK JAM JAR KEY LEG MAP NET NUT OWL PAN PEN PIG RED SKY SUN TEA TOY VAN ZIP
    BIRD BOAT BOOK CAKE DUCK EXIT FISH FROG GOLD JUMP KING LAMP MILK OPEN QUIZ SHIP STOP TREE WAVE WOLF
    """.split()
)
"""Sixty common words of three or four letters, in capitals: capitals differ more from each other."""

LETTERS = {
    letter: tuple(rows.split())
    for letter, rows in {
        "A": ".###. #...# #...# ##### #...# #...# #...#",
        "B": "####. #...# #...# ####. #...# #...# ####.",
        "C": ".###. #...# #.... #.... #.... #...# .###.",
        "D": "####. #...# #...# #...# #...# #...# ####.",
        "E": "##### #.... #.... ####. #.... #.... #####",
        "F": "##### #.... #.... ####. #.... #.... #....",
        "G": ".###. #...# #.... #.### #...# #...# .###.",
        "H": "#...# #...# #...# ##### #...# #...# #...#",
        "I": ".###. ..#.. ..#.. ..#.. ..#.. ..#.. .###.",
        "J": "..### ...#. ...#. ...#. ...#. #..#. .##..",
        "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
        "L": "#.... #.... #.... #.... #.... #.... #####",
        "M": "#...# ##.## #.#.# #.#.# #...# #...# #...#",
        "N": "#...# ##..# ##..# #.#.# #..## #..## #...#",
        "O": ".###. #...# #...# #...# #...# #...# .###.",
        "P": "####. #...# #...# ####. #.... #.... #....",
        "Q": ".###. #...# #...# #...# #.#.# #..#. .##.#",
        "R": "####. #...# #...# ####. #.#.. #..#. #...#",
        "S": ".#### #.... #.... .###. ....# ....# ####.",
        "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
        "U": "#...# #...# #...# #...# #...# #...# .###.",
        "V": "#...# #...# #...# #...# #...# .#.#. ..#..",
        "W": "#...# #...# #...# #.#.# #.#.# ##.## #...#",
        "X": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
        "Y": "#...# #...# .#.#. ..#.. ..#.. ..#.. ..#..",
        "Z": "##### ....# ...#. ..#.. .#... #.... #####",
    }.items()
}
"""Each letter as seven rows of five dots, "#" printed and "." empty."""


def word_width(word):
    """The number of dots a printed word is wide, gaps between the letters included."""
    return len(word) * (LETTER_WIDTH + 1) - 1
