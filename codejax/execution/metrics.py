"""What a worker tells Prometheus: jobs by verdict, how long they wait and take, how busy it is.

A HorizontalPodAutoscaler can scale on `codejax_worker_queue_wait_now_seconds`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable

import prometheus_client

from codejax.execution.capabilities import Load
from codejax.execution.protocol import Verdict

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
REFUSALS = ("full", "sessions full", "draining", "unauthenticated")


class Metrics:
    """A registry of its own, so that several workers fit into a process."""

    def __init__(self) -> None:
        self.registry = registry = prometheus_client.CollectorRegistry()
        self._jobs = prometheus_client.Counter(
            "codejax_worker_jobs", "Jobs answered", ["verdict"], registry=registry
        )
        self._waited = prometheus_client.Histogram(
            "codejax_worker_queue_wait_seconds",
            "Time of a job in the queue",
            buckets=SECONDS,
            registry=registry,
        )
        self._judged = prometheus_client.Histogram(
            "codejax_worker_judging_seconds",
            "Time of a job on its lane",
            buckets=SECONDS,
            registry=registry,
        )
        self.refused = prometheus_client.Counter(
            "codejax_worker_refused", "Jobs and calls refused", ["reason"], registry=registry
        )
        self.sessions = prometheus_client.Gauge(
            "codejax_worker_sessions", "Sessions open", registry=registry
        )
        self.commands = prometheus_client.Counter(
            "codejax_worker_commands", "Commands run in sessions", registry=registry
        )
        self.lane_restarts = prometheus_client.Counter(
            "codejax_worker_lane_restarts", "Lanes lost and replaced", registry=registry
        )
        for verdict in Verdict:
            self._jobs.labels(verdict.value)
        for reason in REFUSALS:
            self.refused.labels(reason)

    def watch(self, load: Callable[[], Load], lanes: int) -> None:
        """Gauges that ask when they are read."""
        for name, says, ask in (
            ("lanes", "Lanes there are", lambda: lanes),
            ("lanes_busy", "Lanes with a job", lambda: load().lanes_busy),
            ("queued", "Jobs in the queue", lambda: load().queued),
            ("queue_wait_now_seconds", "What a job waits now", lambda: load().queue_wait),
            ("draining", "1 while no job is taken any more", lambda: load().draining),
            ("overloaded", "1 while processes wait for cores", lambda: load().overloaded),
        ):
            gauge = prometheus_client.Gauge(f"codejax_worker_{name}", says, registry=self.registry)
            gauge.set_function(ask)

    def judged(self, verdict: Verdict, waited: float, seconds: float) -> None:
        """A job was answered."""
        self._jobs.labels(verdict.value).inc()
        self._waited.observe(waited)
        self._judged.observe(seconds)

    def serve(self, address: str) -> tuple[Callable[[], None], int]:
        """Serve them over HTTP at HOST:PORT; how to stop, and the port. OSError if it is taken."""
        host, _, port = address.rpartition(":")
        server, thread = prometheus_client.start_http_server(
            int(port), host.strip("[]"), self.registry
        )

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop, server.server_port
