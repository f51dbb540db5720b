"""Figures for Prometheus. Nothing in them comes from a request but its address, method and status."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

METHODS = {"GET", "HEAD", "POST", "OPTIONS"}
"""The methods that are counted and logged by name."""

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """What the service counts and times."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "kbtool_requests_total", "Requests answered", ["address", "method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "kbtool_request_seconds", "Time until an answer began", ["address"], buckets=_SECONDS, registry=self.registry
        )
        self._ended = Counter("kbtool_ended_total", "Work that was stopped", ["reason"], registry=self.registry)
        self._working = Gauge("kbtool_working", "Requests being worked on", registry=self.registry)

    def answered(self, address: str, method: str, status: int, seconds: float) -> None:
        """Note an answer. address: as the service declares it, never as a client wrote it."""
        self._requests.labels(address, method if method in METHODS else "other", str(status)).inc()
        self._seconds.labels(address).observe(seconds)

    def ended(self, reason: str) -> None:
        """Note work that was stopped."""
        self._ended.labels(reason).inc()

    def exposition(self, working: int) -> tuple[bytes, str]:
        """Everything in the text format of Prometheus, and its media type."""
        self._working.set(working)
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
