"""The web is reached only on request, within limits, and never inside a private network."""

import http.server
import threading
import time

import pytest

from llada_v import media
from llada_v.media import download, open_media


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to"))
            self.end_headers()
            return
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://10.0.0.1/secret")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/lost" else 200)
        self.end_headers()
        if self.path == "/slow":
            for _ in range(40):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(b"x" * 1000)

    def log_message(self, *args):
        pass


@pytest.fixture
def address(monkeypatch):
    """A server on this machine, which counts as public for these tests, and nothing else does."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    real = media.public_address
    monkeypatch.setattr(media, "public_address", lambda host, port: host if host == "127.0.0.1" else real(host, port))
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.1.2.3", "192.168.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "0.0.0.0"],
)
def test_a_private_address_is_refused(host):
    with pytest.raises(ValueError, match="which is not a public address"):
        open_media(f"http://{host}:1/a.png", allow_urls=True)


def test_an_address_needs_permission():
    with pytest.raises(ValueError, match="is a web address; download it first, or pass allow_urls=True"):
        open_media("https://example.com/a.png")


def test_a_file_is_fetched_through_redirects(address):
    assert download(f"{address}/to/to/a") == b"x" * 1000


def test_a_redirect_is_checked_too(address):
    with pytest.raises(ValueError, match="10.0.0.1, which is not a public address"):
        download(f"{address}/away")


def test_redirects_end(address):
    with pytest.raises(ValueError, match="redirects more than 5 times"):
        download(address + "/to" * 9 + "/a")


def test_another_status_is_an_error(address):
    with pytest.raises(ValueError, match="answers with status 404"):
        download(f"{address}/lost")


def test_size_is_limited(address):
    with pytest.raises(ValueError, match="larger than the 999 bytes"):
        download(f"{address}/a", max_bytes=999)


def test_time_is_limited_while_bytes_still_come(address):
    start = time.monotonic()
    with pytest.raises(ValueError, match="takes too long|timed out"):
        download(f"{address}/slow", max_seconds=0.3)
    assert time.monotonic() - start < 1.5


def test_a_long_address_is_shortened_in_messages():
    with pytest.raises(ValueError) as caught:
        open_media("https://example.com/" + "a" * 1000)
    assert len(str(caught.value)) < 300
