"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class ServerMetrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        """Make them all; gauges get their functions from those who know (`watch`)."""
        self.registry = CollectorRegistry()
        self.requests = Counter("bat_jax_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "bat_jax_request_seconds",
            "From a request's first line to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.questions = Counter("bat_jax_questions", "Questions that the device answered.", registry=self.registry)
        self.together = Histogram(
            "bat_jax_questions_together",
            "Questions answered in one go.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.device_seconds = Counter(
            "bat_jax_device_seconds", "Seconds in which the device's thread was busy.", ["work"], registry=self.registry
        )
        self.scene_hits = Counter(
            "bat_jax_scene_hits", "Scenes that were wanted and kept already.", registry=self.registry
        )
        self.scenes_encoded = Counter(
            "bat_jax_scenes_encoded", "Scenes that were made or read from the disk.", registry=self.registry
        )
        self.open_requests = Gauge(
            "bat_jax_open_requests", "Requests that are being answered, this one too.", registry=self.registry
        )
        self.waiting = Gauge("bat_jax_waiting", "Jobs that wait for the device.", registry=self.registry)
        self.scenes = Gauge("bat_jax_scenes", "Encoded scenes that are kept.", registry=self.registry)
        self.scene_bytes = Gauge("bat_jax_scene_bytes", "Bytes of these.", registry=self.registry)
        self.programs = Gauge("bat_jax_programs", "Programs compiled so far.", registry=self.registry)
