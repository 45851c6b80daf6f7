"""Video files decoded by a child process: a clip that crashes or stalls a decoder is a bad clip, and nothing else ends.

Parent and child are this file: imported, it is the parent's side; run as a script, the child's, which imports neither
torch nor this package. They speak through the child's stdin and stdout, in messages of a length and as many bytes:

    parent  {"decoder", "path" or "bytes"}, the bytes    child  {"frames", "fps"}
            {"indices"}, ascending                              {"shape"} and the pixels of each; {}

Instead of any answer comes {"bad": what is wrong with the clip} or {"fault": traceback}. `subprocess` starts the child,
since the workers of a data loader may not have children of `multiprocessing`; it ends when its stdin does.
It costs 0.1 s of CPU and 40 MiB once, and 0.15 s of CPU for every 190 MiB of pixels (32 frames of 1920 x 1080, whose
decoding takes 0.7), as /proc and `time.process_time` count them.
"""

import faulthandler
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import IO, BinaryIO

LIMIT = 120  # seconds that opening a clip, or the next few of its frames, may take
GROUP = 8  # frames decoded at a time
DECODERS = ("decord", "av")  # the second reads what the first cannot, and is all there is where that has no wheel
# What FFmpeg reads too: pictures, text as on a terminal, lists of other files.
NO_CLIPS = ("image2", "tty", "concat", "hls")


class BadClip(ValueError):
    """What is wrong with a clip, as one decoder sees it."""


# The parent's side


class Decoder:
    """This process's child, started when it is first needed and again after one that died. Threads take turns."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process: subprocess.Popen | None = None
        self.asked = 0.0  # when it was last told something

    @contextmanager
    def opened(self, name: str, source: str | bytes) -> Iterator["Clip"]:
        """The clip at an absolute path, or of these bytes, as a decoder reads it; no other is read meanwhile.

        Raises BadClip.
        """
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.end()
                self.process = start_child()
            try:
                yield Clip(self, name, source)
            except ValueError:
                raise
            except BaseException:  # in the midst of an answer
                self.end()
                raise

    def tell(self, message: dict, content: bytes | None = None) -> None:
        """Send a message, and the bytes that belong to it."""
        self.asked = time.monotonic()
        try:
            write(self.process.stdin, json.dumps(message).encode())
            if content is not None:
                write(self.process.stdin, content)
        except BrokenPipeError:
            pass  # it has died; `hear` says how

    def hear(self) -> dict:
        """The next answer. Raises BadClip where it is that, or where the child has died."""
        try:
            answer = json.loads(read(self.process.stdout))
        except EOFError:
            raise self.last_words(self.process.wait()) from None
        if "fault" in answer:
            raise RuntimeError(f"the process that decodes videos failed:\n{answer['fault']}")
        if "bad" in answer:
            raise BadClip(answer["bad"])
        return answer

    def last_words(self, status: int) -> Exception:
        """The error that says how the child ended."""
        if status not in (0, 1):
            return BadClip(f"crashes its decoder (signal {-status})")
        if time.monotonic() - self.asked >= LIMIT:
            return BadClip(f"gives no frame within {LIMIT:g} seconds")
        return RuntimeError(f"the process that decodes videos could not be started or ended by itself: status {status}")

    def end(self) -> None:
        """Be without a child."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def forget(self) -> None:
        """In a process that was forked: let go of the parent's child, which is to see the end of its stdin."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.returncode = 0  # not ours to wait for
        Decoder.__init__(self)


class Clip:
    """A clip that the child has opened: its number of frames, and how many there are a second."""

    def __init__(self, decoder: Decoder, name: str, source: str | bytes):
        self.decoder = decoder
        if isinstance(source, bytes):
            decoder.tell({"decoder": name, "bytes": len(source)}, source)
        else:
            decoder.tell({"decoder": name, "path": source})
        found = decoder.hear()
        self.total, self.fps = found["frames"], found["fps"]

    def frames(self, indices: list[int], max_pixels: int) -> list[tuple[tuple[int, int, int], bytearray]]:
        """The shapes (height, width, 3) and pixels of the frames at these numbers, ascending. Raises BadClip."""
        frames = []
        self.decoder.tell({"indices": indices})
        while found := self.decoder.hear():
            height, width, _ = found["shape"]
            if height * width > max_pixels:
                self.decoder.end()
                raise BadClip(f"has frames of {height * width:,} pixels, more than the {max_pixels:,} that are safe")
            frames.append(((height, width, 3), read(self.decoder.process.stdout)))
        return frames


def start_child() -> subprocess.Popen:
    """A child that waits for clips."""
    return subprocess.Popen(
        [sys.executable, "-P", __file__, str(LIMIT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the decoders' own chatter about damaged clips
        bufsize=0,
    )


def installed() -> list[str]:
    """The decoders that are there, the preferred one first. Raises ImportError where there is none."""
    found = [decoder for decoder in DECODERS if find_spec(decoder) is not None]
    if not found:
        from .errors import NoPackage  # the parent's side alone has the package

        raise NoPackage("reading a video file needs decord or PyAV: pip install 'llada-v[video]'")
    return found


def write(stream: IO[bytes], content: bytes | memoryview) -> None:
    """Send one message."""
    rest = memoryview(content).cast("B")
    for part in (memoryview(struct.pack(">Q", len(rest))), rest):
        while len(part):
            part = part[stream.write(part) :]


def read(stream: IO[bytes]) -> bytearray:
    """The next message. Raises EOFError where the other side has gone."""
    return read_exactly(stream, struct.unpack(">Q", read_exactly(stream, 8))[0])


def read_exactly(stream, size: int) -> bytearray:
    """So many bytes of a raw stream."""
    content = bytearray(size)
    at = 0
    while at < size:
        count = stream.readinto(memoryview(content)[at:])
        if not count:
            raise EOFError
        at += count
    return content


DECODER = Decoder()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DECODER.forget)


# The child's side


class Decord:
    """A clip as decord reads it."""

    def __init__(self, source):
        import decord

        self.errors = (decord.DECORDError, RuntimeError, UnicodeDecodeError)
        try:
            self.reader = decord.VideoReader(source, num_threads=1)
        except self.errors as error:
            raise BadClip("cannot be decoded as a video (damaged, or not a video file)") from error
        self.total, self.fps = len(self.reader), self.reader.get_avg_fps()
        # In AVI, which tells when a frame is decoded and not when it is shown, decord finds a neighbour of the frame.
        self.is_avi = first_bytes(source)[8:12] == b"AVI "

    def frames(self, indices: list[int]) -> Iterator:
        """The frames (H, W, 3) at these numbers, ascending."""
        try:
            if self.is_avi:
                for number in range(indices[-1] + 1):
                    frame = self.reader.next()
                    if number in indices:
                        yield frame.asnumpy()
            else:
                for start in range(0, len(indices), GROUP):
                    yield from self.reader.get_batch(indices[start : start + GROUP]).asnumpy()
        except self.errors as error:
            raise BadClip("is damaged: its frames cannot be decoded") from error


class Av:
    """A clip as PyAV reads it: the frames that decord gives, upright and in the order in which they are shown."""

    def __init__(self, source):
        import av

        self.errors = (av.FFmpegError, UnicodeDecodeError)
        try:
            self.container = av.open(source, metadata_errors="replace")
            kind = self.container.format.name
            if kind in NO_CLIPS or kind.endswith("_pipe"):
                raise BadClip("is no video")
            self.stream = next(stream for stream in self.container.streams.video if stream.codec_context is not None)
            self.stream.codec_context.thread_count = 1
            packets = [packet for packet in self.container.demux(self.stream) if packet.size]
        except (*self.errors, StopIteration) as error:
            raise BadClip("cannot be decoded as a video (damaged, or not a video file)") from error
        self.total, self.fps = len(packets), float(self.stream.average_rate or 0)
        times = {packet.pts for packet in packets}
        is_timed = len(times) == len(packets) and None not in times  # otherwise frames are counted from the first
        self.times = sorted(times) if is_timed else []
        keys = [packet for packet in packets if packet.is_keyframe] if is_timed else []
        # When each key frame is shown, and where to look for it: some containers order by when a frame is decoded.
        self.starts = sorted((key.pts, key.pts if key.dts is None else min(key.pts, key.dts)) for key in keys)

    def frames(self, indices: list[int]) -> Iterator:
        """The frames (H, W, 3) at these numbers, ascending."""
        import numpy

        try:
            for frame in self.timed(indices) if self.starts else self.counted(indices):
                upright = numpy.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield numpy.ascontiguousarray(upright)
        except self.errors as error:
            raise BadClip("is damaged: its frames cannot be decoded") from error

    def counted(self, indices: list[int]) -> Iterator:
        """The frames at these numbers, all before the last decoded."""
        wanted = iter(indices)
        self.container.seek(0)
        index = next(wanted, None)
        for number, frame in enumerate(self.container.decode(self.stream)):
            if number == index:
                yield frame
                index = next(wanted, None)
                if index is None:
                    return
        if index is not None:
            raise BadClip("is damaged: its frames cannot be decoded")

    def timed(self, indices: list[int]) -> Iterator:
        """The frames at these numbers, found by their times from the key frame before."""
        decoded: Iterator = iter(())
        begun = None
        for moment in (self.times[index] for index in indices):
            shown, place = self.starts[max(bisect_right(self.starts, moment, key=lambda start: start[0]) - 1, 0)]
            if shown != begun:
                self.container.seek(place, stream=self.stream)
                decoded, begun = self.container.decode(self.stream), shown
            frame = next((frame for frame in decoded if frame.pts is not None and frame.pts >= moment), None)
            if frame is None or frame.pts != moment:
                raise BadClip("is damaged: its frames cannot be decoded")
            yield frame


def first_bytes(source: str | BytesIO) -> bytes:
    """What tells the kind of a file."""
    if isinstance(source, BytesIO):
        return source.getvalue()[:12]
    with open(source, "rb") as stream:
        return stream.read(12)


def serve(requests: BinaryIO, answers: BinaryIO, limit: float) -> None:
    """Open clips and give their frames until there are no more requests; a step of over `limit` seconds ends it."""
    clip: Decord | Av | None = None
    kinds: dict[str, type[Decord] | type[Av]] = {"decord": Decord, "av": Av}
    while True:
        try:
            request = json.loads(read(requests))
            content = BytesIO(read(requests)) if "bytes" in request else request.get("path")
        except EOFError:
            return
        faulthandler.dump_traceback_later(limit, exit=True)
        try:
            if "indices" in request:
                for frame in clip.frames(request["indices"]):
                    write(answers, json.dumps({"shape": frame.shape}).encode())
                    write(answers, frame.data)
                    faulthandler.dump_traceback_later(limit, exit=True)
                answer = {}
            else:
                clip = kinds[request["decoder"]](content)
                answer = {"frames": clip.total, "fps": clip.fps}
        except BadClip as error:
            answer = {"bad": str(error)}
        except Exception:
            answer = {"fault": traceback.format_exc()}
        faulthandler.cancel_dump_traceback_later()
        write(answers, json.dumps(answer).encode())


def main() -> None:
    """Serve stdin and stdout; what stops a run, the parent sees to."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what the decoders print is no answer
    serve(os.fdopen(0, "rb", buffering=0), answers, float(sys.argv[1]))


if __name__ == "__main__":
    main()
