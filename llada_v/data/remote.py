"""Files that are not on this machine, by their address (`s3://`, `gs://`, `hf://`, `https://` ...), through fsspec.

What is asked of a store, about a file, its bytes or a range of them, has a time limit and is asked again a few times,
unless the answer is final. Addresses in messages are without name, password and query, where
secrets stand; credentials come from where the store's own package looks for them (environment, configuration files).
"""

import io
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from ..errors import BadFile, MissingFile, NoPackage, WrongValue

log = logging.getLogger(__name__)

T = TypeVar("T")
TRIES = 5
FIRST_WAIT = 0.5  # seconds before the second try; each further wait is twice as long
SECONDS = 60.0  # that one try may take
READ_AHEAD = 4 << 20  # bytes fetched at a time where a file is read from one end to the other
# Errors of these packages are the store's or the network's; an error of another one that is no OSError is a mistake.
LIBRARIES = ("aiohttp", "botocore", "gcsfs", "httpx", "huggingface_hub")
PASSING = (408, 425, 429)  # statuses below 500 that a later try may not meet
STAMPS = ("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "updated", "blob_id", "created")


def place_of(name: "str | Path | RemoteFile") -> "Path | RemoteFile":
    """The file of this name: on this machine, or elsewhere where it has `scheme://`."""
    if isinstance(name, str) and re.match(r"[a-z][a-z0-9+.-]*://", name):
        return RemoteFile(name)
    return name if isinstance(name, RemoteFile) else Path(name)


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere, with as much of a Path's ways as reading data needs."""

    address: str

    def __str__(self) -> str:
        return without_secrets(self.address)

    @property
    def suffix(self) -> str:
        return PurePosixPath(str(self).partition("://")[2]).suffix

    def __truediv__(self, name: str | Path) -> "RemoteFile":
        return RemoteFile(f"{self.address.rstrip('/')}/{Path(name).as_posix()}")

    def is_file(self) -> bool:
        """Whether the store has it. Raises BadFile where it does not say, NoPackage where nothing here can ask it."""
        try:
            return self.info().get("type", "file") == "file"
        except FileNotFoundError:
            return False

    def info(self) -> dict[str, Any]:
        """What the store says of it."""
        return self.ask(lambda system, path, limit: system.info(path, **limit))

    def size(self) -> int:
        """Its bytes."""
        size = self.info().get("size")
        if size is None:
            raise BadFile(f"{self}: the server does not say how large it is; copy the file to this machine first")
        return size

    def state(self) -> dict[str, Any]:
        """Size and marks of its version: another state means another content."""
        info = self.info()
        return {"bytes": info.get("size"), "changed": [str(info[name]) for name in STAMPS if name in info]}

    def whole(self) -> bytes:
        """All its bytes, in one answer."""
        return self.ask(lambda system, path, limit: system.cat_file(path, **limit))

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on, which it must have."""
        end = start + size

        def ranged(system, path, limit) -> bytes:
            data = system.cat_file(path, start=start, end=end, **limit)
            if len(data) > size:
                raise BadFile(f"{self}: the server sends the whole file where a part is asked for; copy it here first")
            if len(data) < size:
                raise ShortAnswer(f"{len(data):,} of {size:,} bytes came")
            return data

        return self.ask(ranged) if size else b""

    def open(self, mode: str = "r", encoding: str | None = None) -> IO[Any]:
        """A stream over it, of bytes for the mode "rb"; it fetches `READ_AHEAD` bytes at a time."""
        stream = io.BufferedReader(Ranges(self), READ_AHEAD)
        return stream if mode == "rb" else io.TextIOWrapper(stream, encoding=encoding)

    def ask(self, question: Callable[[Any, str, dict], T]) -> T:
        """The store's answer, at one of `TRIES` tries.

        question: called with fsspec's file system, the path in it, and keywords of the time limit.
        Raises FileNotFoundError for what is not there, BadFile for any other failure, without secrets.
        """
        system, path = self.system()
        limit = {"timeout": SECONDS} if getattr(system, "async_impl", False) else {}
        wait = FIRST_WAIT
        for number in range(1, TRIES + 1):
            try:
                return question(system, path, limit)
            except Exception as error:
                if isinstance(error, BadFile) or not is_of_store(error):
                    raise
                if is_missing(error):
                    raise MissingFile(f"no file at {self}") from None
                told = self.told(error)
                if is_final(error) or number == TRIES:
                    tries = f" ({number} tries)" if number > 1 else ""
                    raise BadFile(f"{self} cannot be read{tries}: {told}") from None
            log.info("%s: %s; trying again in %g s", self, told, wait)
            time.sleep(wait)
            wait *= 2
        raise AssertionError("the last try returns or raises")

    def system(self) -> tuple[Any, str]:
        """fsspec's file system and the path in it; each process has its own connections."""
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise NoPackage(f"{self} needs fsspec; install it with: bash init_env.sh train") from error
        scheme = self.address.partition("://")[0]
        try:
            return url_to_fs(self.address)
        except ImportError as error:
            raise NoPackage(f"{self}: {error}") from None
        except ValueError as error:
            raise WrongValue(f"{self}: nothing here reads {scheme}:// ({self.told(error)})") from None

    def told(self, error: BaseException) -> str:
        """What an error says, without secrets: it may repeat the address."""
        if isinstance(error, TimeoutError):
            return f"no answer in {SECONDS:g} s"
        cause = error.__cause__ or error
        text = str(cause).replace(self.address, str(self)) or type(cause).__name__
        return re.sub(r"//[^/@\s]+@", "//", re.sub(r"\?[^\s'\")>]+", "?...", text))


class ShortAnswer(OSError):
    """Fewer bytes than were asked for; the next try may bring all."""


class Ranges(io.RawIOBase):
    """A file elsewhere as a raw stream: what a buffer around it asks for is one range."""

    def __init__(self, file: RemoteFile):
        self.file, self.at, self.length = file, 0, file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.length}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer) -> int:
        data = self.file.read(self.at, max(0, min(len(buffer), self.length - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def without_secrets(address: str) -> str:
    """An address without user, password and query."""
    plain, _, _ = address.partition("?")
    return re.sub(r"(?<=://)[^/@]*@", "", plain)


def is_of_store(error: Exception) -> bool:
    """Whether an error is the network's or the store's, and not a mistake of a program."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in LIBRARIES


def status_of(error: BaseException) -> int | None:
    """The status of an HTTP answer that an error is about, or is the cause of it."""
    for found in (error, error.__cause__):
        for holder in (found, getattr(found, "response", None)):
            for name in ("status", "status_code", "code"):
                if isinstance(status := getattr(holder, name, None), int):
                    return status
    return None


def is_missing(error: Exception) -> bool:
    """Whether the file is not there. fsspec says so of HTTP whatever went wrong, and has that as the cause."""
    cause = error.__cause__
    told_why = isinstance(cause, Exception) and is_of_store(cause)
    return isinstance(error, FileNotFoundError) and (not told_why or status_of(error) in (404, 410))


def is_final(error: Exception) -> bool:
    """Whether the next answer would be the same: no right to it, no such thing."""
    status = status_of(error)
    return isinstance(error, PermissionError) or status is not None and 400 <= status < 500 and status not in PASSING
