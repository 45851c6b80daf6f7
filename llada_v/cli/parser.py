"""The parser of every verb: help as it is written, and one line for a word that cannot be."""

import argparse
import difflib
import sys


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations and without a page of usage before an error."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but nothing unknown passes; it is told with the nearest option that there is."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [option for option in self._option_string_actions if option.startswith("--")]
            near = difflib.get_close_matches(unknown[0], options, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return found, unknown

    def error(self, message):
        """One line on stderr and status 2."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)
