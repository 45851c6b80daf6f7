"""Errors of the user: what was given cannot be used, and one line says what was found, expected and to do.

The rule: a check of what was given raises one of these, never the plain built-in, which each of them is too. The
command line shows them in one line. Whatever else is raised, by a library or by a mistake of ours, keeps its traceback.
"""

LONGEST = 1000  # letters of a message: one screen


class UserError(Exception):
    """Anything that is right again once the user gives something else.

    A message that repeats too much of what was given is cut in its middle: the remedy stands at its end.
    """

    def __init__(self, *args):
        super().__init__(*(brief(arg) if isinstance(arg, str) else arg for arg in args))


def brief(text: str) -> str:
    """The text, at most about `LONGEST` letters of it."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 3 :]}"


class WrongValue(UserError, ValueError):
    """A value, a record or a file's content that cannot be used."""


class WrongType(UserError, TypeError):
    """An object of a kind that is not understood, or a keyword that nothing takes."""


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that is not there."""


class ExistingFile(UserError, FileExistsError):
    """A file or folder that stands where another is to be made."""


class BadFile(UserError, OSError):
    """A file or folder that cannot be read or written, and what the system says."""


class NoPackage(UserError, ModuleNotFoundError):
    """A package that an extra brings, and how to install it."""
