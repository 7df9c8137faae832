"""Prometheus metrics of a server."""

import os
from collections.abc import Sequence

from kdcli.runtime import Prediction

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
MULTIPROCESS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class ServingMetrics:
    """Counters of requests and decisions; no texts.

    With several processes, `render` sums over all of them.
    """

    def __init__(self) -> None:
        # The library chooses how to store values while it is imported.
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            ProcessCollector,
        )

        self._registry = CollectorRegistry()
        self._is_multiprocess = MULTIPROCESS_FOLDER_VARIABLE in os.environ
        if not self._is_multiprocess:
            ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "kd_requests", "Requests", ("route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "kd_request_seconds",
            "Time from a request's head to the end of its answer",
            ("route",),
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self.texts = Counter("kd_texts", "Texts that were answered", registry=self._registry)
        self.refused = Counter(
            "kd_refused_texts",
            "Texts below the out-of-scope threshold",
            registry=self._registry,
        )
        self.deferred = Counter(
            "kd_deferred_texts",
            "Texts that a cascade's teacher answered",
            registry=self._registry,
        )
        self.deferral_alarm = Gauge(
            "kd_deferral_alarm",
            "1 if the share of deferred texts is not that of validation",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self.labels = Counter(
            "kd_predicted_labels", "Predicted labels", ("label",), registry=self._registry
        )
        self.pending = Gauge(
            "kd_pending_texts",
            "Texts that wait or run",
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def count_predictions(self, predictions: Sequence[Prediction]) -> None:
        """Count decisions."""
        self.texts.inc(len(predictions))
        for prediction in predictions:
            if prediction.refused:
                self.refused.inc()
            if prediction.deferred:
                self.deferred.inc()
            decided = prediction.labels if prediction.label is None else (prediction.label,)
            for label in decided:
                self.labels.labels(label).inc()

    def render(self) -> tuple[bytes, str]:
        """Return the text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        if self._is_multiprocess:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
