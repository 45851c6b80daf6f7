"""What the server tells Prometheus: counters of the engine, and how long answers took."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from .engine import Engine

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
COUNTERS = {
    "requests": "answers asked of the engine",
    "finished": "answers finished",
    "failed": "answers that failed",
    "cancelled": "answers that were cancelled",
    "refused": "answers refused: the queue was full, or they could never have room",
    "ticks": "ticks of the engine",
    "forwards": "forward passes of the model",
    "positions": "positions that forward passes computed",
    "tokens": "tokens of finished answers",
}


class EngineCollector:
    """Reads the engine when Prometheus asks."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def collect(self):
        """Counters and gauges."""
        engine = self.engine
        for name, told in COUNTERS.items():
            yield CounterMetricFamily(f"llada_v_{name}", told, value=engine.counts[name])
        for name, told, value in (
            ("running", "answers that are stepped", len(engine.running)),
            ("queued", "answers that wait to be let in", len(engine.queue)),
            ("pool_positions", "positions of the pool", engine.pool.size),
            ("pool_positions_used", "positions of the pool in use", engine.pool.used),
            ("pool_bytes", "bytes of the pool", engine.pool.num_bytes),
            ("picture_bytes", "bytes of picture features that are kept", engine.memory.num_bytes),
        ):
            yield GaugeMetricFamily(f"llada_v_{name}", told, value=value)
        yield CounterMetricFamily("llada_v_pictures_found", "sets of pictures found again", engine.memory.num_found)
        yield CounterMetricFamily("llada_v_pictures_encoded", "sets of pictures encoded", engine.memory.num_made)


class Metrics:
    """The server's own figures, and the engine's."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine))
        self.responses = Counter("llada_v_responses", "responses", ["status"], registry=self.registry)
        self.first = Histogram(
            "llada_v_seconds_to_first_text", "until the first text", buckets=SECONDS, registry=self.registry
        )
        self.last = Histogram("llada_v_seconds_to_last_text", "until the end", buckets=SECONDS, registry=self.registry)
        self.forwards = Histogram(
            "llada_v_forwards_an_answer",
            "forward passes of an answer",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
            registry=self.registry,
        )

    def text(self) -> bytes:
        """In Prometheus' form."""
        return generate_latest(self.registry)
