"""Files written under a draft's name, which take their own only when they are whole and on the disk."""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import BadFile

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""No room, no more room for this user, a read-only disk, no right to write."""


@contextmanager
def whole_file(file: Path, mode: str = "w") -> Iterator[IO]:
    """A stream into a draft of the file, which replaces it at the end; an error leaves it as it was.

    Raises OSError, in one line with its name, where it cannot be written.
    """
    draft = file.with_name(f"{file.name}.draft-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open(mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except OSError as error:
        if error.errno in NOT_WRITABLE and error.filename in (None, str(draft), str(file.parent)):
            raise BadFile(f"cannot write {file}: {error.strerror}") from error
        raise
    finally:
        draft.unlink(missing_ok=True)


def write_array(file: Path, records: Iterable[dict]) -> int:
    """Write records as `json.dump(..., indent=2, ensure_ascii=False)` would, one at a time; returns how many."""
    count = 0
    with whole_file(file) as stream:
        stream.write("[")
        for record in records:
            text = json.dumps(record, indent=2, ensure_ascii=False).replace("\n", "\n  ")
            stream.write(f"{',' if count else ''}\n  {text}")
            count += 1
        stream.write("\n]" if count else "]")
    return count
