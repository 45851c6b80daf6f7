"""What the engine holds and does at once, and what a request may ask. Every limit is an option of `llada-v serve`."""

from dataclasses import dataclass

from ..fields import check, documented, setting


@documented
@dataclass(frozen=True)
class EngineConfig:
    """How much the engine holds and does at once."""

    pool_tokens: int = setting(
        16384, "positions whose keys and values are held, of all requests together", least=1, most=2**30
    )
    tick_tokens: int = setting(8192, "positions that one tick computes", least=1, most=2**24)
    tick_logits: int = setting(
        2**27, "logits of one tick: open positions x vocabulary, four bytes each", least=1, most=2**34
    )
    max_running: int = setting(32, "requests that are stepped at once", least=1, most=4096)
    encode_at_once: int = setting(
        1, "requests whose pictures are encoded in one tick, while all others wait", least=1, most=4096
    )
    queue_length: int = setting(64, "requests that wait to be let in; more are turned away", least=0, most=100_000)
    picture_mib: int = setting(256, "MiB of picture features that are kept for the next request", least=0, most=2**20)

    def __post_init__(self):
        check(self)


@documented
@dataclass(frozen=True)
class Limits:
    """Limits of one request and of one client."""

    body_mib: int = setting(32, "MiB of a request's body", least=1, most=4096)
    body_seconds: float = setting(
        30.0, "seconds in which a request's head and body have to be there", above=0, most=3600
    )
    write_seconds: float = setting(
        30.0, "seconds after which a client that does not read what is sent is dropped", above=0, most=3600
    )
    request_seconds: float = setting(
        600.0, "seconds of one answer, the wait in the queue included", above=0, most=86400
    )
    pictures: int = setting(16, "pictures of one request", least=0, most=1000)
    pixels: int = setting(40_000_000, "pixels of one picture", least=1, most=89_478_485)
    frames: int = setting(64, "frames of one video", least=1, most=10_000)
    tokens: int = setting(1024, "tokens of one answer", least=1, most=1_000_000)
    answers: int = setting(8, "answers to one request (n)", least=1, most=128)
    client_requests: int = setting(
        64, "requests of one client at once: of a key, else of an address", least=1, most=100_000
    )
    all_requests: int = setting(256, "requests of all clients at once", least=1, most=100_000)

    def __post_init__(self):
        check(self)
