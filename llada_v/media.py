"""Pictures and videos as callers hand them over: objects, paths, `data:` URIs, base64, and the web where it is allowed.

What comes out is a PIL image, a path, bytes or frames, for `images.load_image` and `video.load_frames`. No message of
an error repeats data. A web address is fetched only on request, within limits of size and time, and never from a
private network: each name is looked up once, its addresses are checked, and the connection goes to what was checked.
"""

import base64
import binascii
import http.client
import ipaddress
import socket
import ssl
import time
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

import numpy as np
import torch
from PIL import Image

from .errors import WrongValue

MAX_BYTES = 64 * 2**20
MAX_SECONDS = 20.0
MAX_REDIRECTS = 5
PATH_LENGTH = 4096  # no path is longer
SHOWN = 80  # characters of a name that an error repeats


def open_media(source, allow_urls: bool = False, channels: str | None = None):
    """What `load_image` and `load_frames` take, from anything that callers write.

    source: a path, a `file:`, `data:` or `http(s):` address, bytes, a binary file such as BytesIO, a PIL image, an
        array or tensor of a picture (see `array_picture`), or a list of any of these (frames).
    channels: "channels_first" or "channels_last" of arrays; None: by their shape.
    Raises ValueError for text that is none of these, a web address that is not allowed or gives nothing usable, and an
    array that is no picture.
    """
    if isinstance(source, str):
        return open_text(source, allow_urls)
    if isinstance(source, (list, tuple)):
        return [open_media(item, allow_urls, channels) for item in source]
    if isinstance(source, (np.ndarray, torch.Tensor)):
        array = source.detach().cpu().numpy() if isinstance(source, torch.Tensor) else source
        return (
            [array_picture(frame, channels) for frame in array] if array.ndim == 4 else array_picture(array, channels)
        )
    if hasattr(source, "read"):
        return source.read()
    return source


def open_text(text: str, allow_urls: bool):
    """A path, or the bytes that a URI holds or names."""
    scheme = text[:8].lower()
    if scheme.startswith("data:"):
        return of_data_uri(text)
    if scheme.startswith(("http://", "https://")):
        if not allow_urls:
            raise WrongValue(f"{shown(text)} is a web address; download it first, or pass allow_urls=True")
        return download(text)
    if scheme.startswith("file:/"):
        return Path(unquote(urlsplit(text).path))
    if len(text) > PATH_LENGTH:
        raise WrongValue(
            f"a text of {len(text)} characters is no path; base64 goes under the key 'base64', or into a data: URI"
        )
    return text


def of_data_uri(text: str) -> bytes:
    """The bytes of `data:[type][;base64],DATA`."""
    header, comma, data = text.partition(",")
    if not comma:
        raise WrongValue("a data: URI has no comma; write data:image/png;base64,DATA")
    return of_base64(data) if header.lower().endswith(";base64") else unquote_to_bytes(data)


def of_base64(text: str) -> bytes:
    """The bytes that base64 text holds; white space in it is allowed."""
    try:
        found = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise WrongValue(f"{len(text)} characters are no base64 ({error})") from None
    if not found:
        raise WrongValue("the base64 text is empty")
    return found


def array_picture(array: np.ndarray, channels: str | None = None) -> Image.Image:
    """A picture from (H, W), (H, W, C) or (C, H, W), C 1, 3 or 4; integers 0..255, or floats 0..1.

    channels: see `open_media`.

    Raises ValueError for other shapes and for numbers outside the range.
    """
    shape = array.shape
    if array.ndim == 3 and shape[-1] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or array.ndim == 3 and array.shape[-1] in (3, 4)) or not array.size:
        raise WrongValue(f"an array of shape {shape} is no picture; give (H, W), (H, W, 3) or (3, H, W)")
    if array.dtype != np.uint8:
        most = 1.0 if np.issubdtype(array.dtype, np.floating) else 255
        if not (array.min() >= 0 and array.max() <= most):  # NaN too
            raise WrongValue(
                f"a picture of {array.dtype} holds {array.min():g} to {array.max():g}; give floats from 0 to 1, or "
                "integers from 0 to 255"
            )
        array = np.round(array * (255 / most)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


# The web


def download(url: str, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> bytes:
    """What a web address gives, redirects followed.

    Raises ValueError for a private address, an answer that is not 200, more than `max_bytes`, or more than
    `max_seconds` in all.
    """
    deadline = time.monotonic() + max_seconds
    for _ in range(MAX_REDIRECTS + 1):
        connection, sock, target = connect(url, deadline)
        try:
            connection.request("GET", target, headers={"User-Agent": "llada-v", "Accept": "image/*,video/*,*/*;q=0.5"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308) and response.getheader("Location"):
                url = urljoin(url, response.getheader("Location"))
                continue
            if response.status != 200:
                raise WrongValue(f"{shown(url)} answers with status {response.status}")
            return read_limited(response, sock, url, max_bytes, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise WrongValue(f"{shown(url)} cannot be fetched: {error or type(error).__name__}") from None
        finally:
            connection.close()
    raise WrongValue(f"{shown(url)} redirects more than {MAX_REDIRECTS} times")


def read_limited(response, sock, url: str, max_bytes: int, deadline: float) -> bytes:
    """The body, read in pieces so that both limits hold while it comes."""
    parts, size = [], 0
    while piece := response.read1(2**16):
        parts.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise WrongValue(f"{shown(url)} is larger than the {max_bytes:,} bytes that are fetched")
        sock.settimeout(seconds_left(deadline, url))
    return b"".join(parts)


def connect(url: str, deadline: float) -> tuple[http.client.HTTPConnection, socket.socket, str]:
    """A connection to a checked address, its socket, and the target to ask it for."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WrongValue(f"{shown(url)} is no http or https address")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = public_address(parts.hostname, port)
    except (OSError, UnicodeError) as error:
        raise WrongValue(f"{shown(url)} cannot be found: {error}") from None
    connection = http.client.HTTPConnection(parts.hostname, port)
    try:
        sock = socket.create_connection((address, port), timeout=seconds_left(deadline, url))
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=parts.hostname)
    except OSError as error:
        raise WrongValue(f"{shown(url)} cannot be reached: {error or 'no answer in time'}") from None
    connection.sock = sock
    return connection, sock, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def public_address(host: str, port: int) -> str:
    """An address of the host. Raises ValueError where any of them is private, local or reserved."""
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        ip = ipaddress.ip_address(address.partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if not ip.is_global or ip.is_multicast:
            raise WrongValue(f"{shown(host)} is at {ip}, which is not a public address; download the file yourself")
    return found[0]


def seconds_left(deadline: float, url: str) -> float:
    """Time until the deadline. Raises ValueError where it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise WrongValue(f"{shown(url)} takes too long")
    return left


def shown(text: str) -> str:
    """The start of a name, for a message."""
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
