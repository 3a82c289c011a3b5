"""What operators of a server watch, as Prometheus reads it."""

from __future__ import annotations

from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from stmd_sdk.runs.inputs import BUCKET

from .batching import Batcher

__all__ = ["Metrics"]

SECONDS = 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0


@final
class Metrics:
    """Answers by path and status and how long they took; the queue; how full buckets are."""

    def __init__(self, batcher: Batcher) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter("stmd_answers", "Answers.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "stmd_answer_seconds", "How long answers took.", ["path"], buckets=SECONDS, registry=self.registry
        )
        self._read("stmd_waiting_buckets", "Buckets that wait for a replica.", lambda: len(batcher.waiting))
        self._read("stmd_drawing_buckets", "Buckets that replicas draw.", lambda: len(batcher.running))
        self._read("stmd_drawn_buckets", "Buckets drawn since the start.", lambda: batcher.drawn)
        self._read(
            "stmd_bucket_fill",
            "The share of rows drawn that were asked for.",
            lambda: batcher.filled / max(1, BUCKET * batcher.drawn),
        )

    def _read(self, name: str, meaning: str, value: object) -> None:
        Gauge(name, meaning, registry=self.registry).set_function(value)  # type: ignore[arg-type]

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; ``path`` is that of the route, not what a client wrote."""
        self.answers.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
