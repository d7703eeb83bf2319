"""The worker's launch files: manifests by rules, the image's command and a fleet for real."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import copy
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from manifests import RULES, WORKER, Bundle, broken_rules, read_bundle

from codejax.execution import addresses
from codejax.execution.access import Access
from codejax.execution.client import Fleet, FleetSettings
from codejax.execution.limits import Limits
from codejax.execution.protocol import Job, Verdict, call_test, stdio_test
from codejax.execution.worker import READY

ROOT = pathlib.Path(__file__).parents[2]
TOKEN = "a token that is long enough"
AC, WA = Verdict.AC, Verdict.WA
CODEJAX = (sys.executable, "-P", "-m", "codejax")


@pytest.mark.parametrize("overlay", ["base", "gvisor"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_manifests_keep_the_rules(rule: Callable[[Bundle], None], overlay: str):
    rule(read_bundle(overlay))


def put(bundle: Bundle, path: str, value: Any) -> None:
    """Set what lies at `KIND.key.key...`; POD and CONTAINER are short for theirs; None removes."""
    first, *keys, last = path.split(".")
    starts: dict[str, Any] = {"POD": bundle.pod, "CONTAINER": bundle.container}
    starts |= {"ADAPTER": bundle.adapter, "SECRET": bundle.secret}
    place: Any = starts.get(first) or bundle.objects[first]
    for key in keys:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value


OTHER = {"app": "other"}
# A change, and the rule that must see it.
MUTANTS = [
    ("labels_match", "Service.spec.selector", OTHER),
    ("labels_match", "NetworkPolicy.spec.podSelector.matchLabels", OTHER),
    ("labels_match", "NetworkPolicy.spec.podSelector.matchLabels", {}),
    ("labels_match", "PodDisruptionBudget.spec.selector.matchLabels", OTHER),
    ("labels_match", "Deployment.spec.selector.matchLabels", OTHER),
    ("labels_match", "Service.metadata.namespace", "default"),
    ("labels_match", "SECRET.metadata.namespace", "default"),
    ("ports_match", "CONTAINER.args.0", "--listen=0.0.0.0:7071"),
    ("ports_match", "CONTAINER.args.0", "--listen=127.0.0.1:7070"),
    ("ports_match", "Service.spec.ports.0.targetPort", "metrics"),
    ("ports_match", "CONTAINER.livenessProbe.grpc.port", 9090),
    ("is_headless", "Service.spec.clusterIP", None),
    ("is_headless", "Service.spec.publishNotReadyAddresses", True),
    ("is_unprivileged", "POD.hostNetwork", True),
    ("is_unprivileged", "POD.hostPID", True),
    ("is_unprivileged", "POD.volumes.1", {"name": "boxes", "hostPath": {"path": "/"}}),
    ("is_unprivileged", "CONTAINER.securityContext.privileged", True),
    ("is_unprivileged", "CONTAINER.securityContext.allowPrivilegeEscalation", True),
    ("is_unprivileged", "CONTAINER.securityContext.readOnlyRootFilesystem", None),
    ("is_unprivileged", "CONTAINER.securityContext.capabilities", {"drop": ["NET_RAW"]}),
    ("is_unprivileged", "CONTAINER.securityContext.capabilities.add", ["SYS_ADMIN"]),
    ("is_unprivileged", "POD.securityContext.runAsNonRoot", None),
    ("is_unprivileged", "POD.securityContext.runAsUser", 0),
    ("is_unprivileged", "POD.securityContext.seccompProfile", {"type": "Unconfined"}),
    ("is_unprivileged", "POD.automountServiceAccountToken", None),
    ("isolation_is_demanded", "CONTAINER.args.4", "--min-isolation=0"),
    ("isolation_is_demanded", "POD.runtimeClassName", "gvisor"),
    ("isolation_is_demanded", "CONTAINER.env", [{"name": "CODEJAX_OUTER_SANDBOX", "value": "x"}]),
    ("nothing_goes_out", "NetworkPolicy.spec.egress", [{}]),
    ("nothing_goes_out", "NetworkPolicy.spec.policyTypes", ["Ingress"]),
    ("nothing_goes_out", "NetworkPolicy.spec.ingress.0.from", [{"namespaceSelector": {}}]),
    ("nothing_goes_out", "NetworkPolicy.spec.ingress.0.from", None),
    ("nothing_goes_out", "NetworkPolicy.spec.ingress.0.ports", None),
    ("scales_on_what_is_exported", "HorizontalPodAutoscaler.spec.scaleTargetRef.name", "x"),
    (
        "scales_on_what_is_exported",
        "HorizontalPodAutoscaler.spec.metrics.0.pods.metric.name",
        "codejax_worker_queue_wait",
    ),
    (
        "scales_on_what_is_exported",
        "HorizontalPodAutoscaler.spec.metrics.1.pods.target.averageValue",
        "4000m",
    ),
    ("scales_on_what_is_exported", "ADAPTER.rules.custom.0.seriesQuery", '{__name__=~"up"}'),
    ("there_is_time_to_drain", "POD.terminationGracePeriodSeconds", 60),
    ("there_is_time_to_drain", "CONTAINER.args.5", "--drain-seconds=80"),
    ("resources_fit_the_lanes", "CONTAINER.args.3", "--lanes=8"),
    ("resources_fit_the_lanes", "CONTAINER.args.6", "--sessions=5"),
    ("resources_fit_the_lanes", "CONTAINER.args.6", "--session-idle=900"),
    ("resources_fit_the_lanes", "CONTAINER.resources.limits.memory", "4Gi"),
    ("resources_fit_the_lanes", "POD.volumes.1.emptyDir.medium", None),
    ("resources_fit_the_lanes", "POD.volumes.1.emptyDir.sizeLimit", "512Mi"),
    ("token_is_mounted_and_not_given", "CONTAINER.args.2", "--token-file=/run/token"),
    ("token_is_mounted_and_not_given", "POD.volumes.0.secret.secretName", "other"),
    ("token_is_mounted_and_not_given", "POD.volumes.0.secret.defaultMode", 0o444),
    ("token_is_mounted_and_not_given", "SECRET.stringData.token", "0123456789abcdef"),
    ("flags_are_the_images", "CONTAINER.command", ["sh"]),
    ("flags_are_the_images", "CONTAINER.args.1", "--metrics-listen=0.0.0.0:9091"),
]


@pytest.mark.parametrize(("rule", "path", "value"), MUTANTS)
def test_manifests_mutant(rule: str, path: str, value: Any):
    bundle = copy.deepcopy(read_bundle("base"))
    put(bundle, path, value)
    assert rule in set(broken_rules(bundle))


def test_gvisor_changes_only_what_it_must():
    base, outer = read_bundle("base"), read_bundle("gvisor")
    assert outer.pod["runtimeClassName"] == "gvisor"
    assert outer.flags == base.flags | {"min-isolation": "4"}
    for name in ("resources", "readinessProbe", "volumeMounts"):
        assert outer.container[name] == base.container[name]


MODULES = """
import codejax.__main__, codejax.execution.worker, codejax.execution.judge, sys
print(*{name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
"""


def test_the_image_holds_what_a_worker_imports():
    """And no JAX; grpc brings typing_extensions, and looks for grpc_tools without need."""
    text = (WORKER / "Dockerfile").read_text()
    installed = re.search(r"constraints.txt \\\n((?:    [\w \-]+\n))", text)
    assert installed
    own = {"codejax", "__main__", "typing_extensions", "grpc_tools"}
    names = {"grpcio": "grpc", "grpcio-health-checking": "grpc_health", "protobuf": "google"}
    names |= {"grpcio-reflection": "grpc_reflection"}
    there = own | {names.get(package, package) for package in installed[1].split()}
    done = subprocess.run(
        [sys.executable, "-c", MODULES], capture_output=True, text=True, check=True, cwd=ROOT
    )
    noise = ("cython", "__editable__")  # an editable install has a finder of its own
    found = {name for name in done.stdout.split() if not any(part in name for part in noise)}
    assert found - {"_distutils_hack", "google_crc32c"} <= there


@contextlib.contextmanager
def worker(*options: str, command: tuple[str, ...] = ("worker",)) -> Iterator[Any]:
    """A process of `codejax worker`, and its address."""
    with subprocess.Popen(
        [*CODEJAX, *command, *options, "--log-level=error"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith(READY)
            yield process, line.removeprefix(READY).split(": ")[0]
        finally:
            process.kill()


def is_healthy(address: str) -> bool:
    """What the image's health check says."""
    done = subprocess.run([sys.executable, WORKER / "health.py", address], check=False, cwd=ROOT)
    return done.returncode == 0


def test_the_command_of_the_image_serves(tmp_path: pathlib.Path):
    bundle = read_bundle("base")
    init, *command = bundle.entrypoint
    assert (init, command[0], command[1]) == ("tini", "--", "codejax")
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    here = {"listen": "127.0.0.1:0", "metrics-listen": "127.0.0.1:0", "token-file": str(token)}
    here |= {"lanes": "1"}
    flags = [f"--{name}={value}" for name, value in (bundle.flags | here).items()]
    with worker(*flags, command=tuple(command[2:])) as (process, address):
        assert is_healthy(address)
        with Fleet(f"static:{address}", access=Access(TOKEN)) as fleet:
            jobs, wanted = mixed_jobs(6)
            assert [result.verdict for result in fleet.judge(jobs)] == wanted
            assert fleet.workers()[0].isolation.level >= 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not is_healthy(address)


def mixed_jobs(count: int, pause: float = 0.0) -> tuple[list[Job], list[Verdict]]:
    """Real programs, every third of them wrong, and what they are worth."""
    limits = Limits(cpu=5.0, wall=20.0)
    jobs = []
    for n in range(count):
        right = n + (n % 3 == 0)
        if n % 2:
            source = f"import time\ntime.sleep({pause})\nprint(int(input()) + 1 - 1)"
            jobs.append(Job(source, (stdio_test(str(n), str(right)),), limits=limits))
        else:
            source = f"import time\ndef f(x):\n    time.sleep({pause})\n    return x"
            test = call_test([n], right)
            jobs.append(Job(source, (test,), mode="call", entry="f", limits=limits))
    return jobs, [WA if n % 3 == 0 else AC for n in range(count)]


class Names:
    """What DNS answers for a headless Service: an address for each pod that is ready."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.hosts = name, [""]
        self._real = socket.getaddrinfo
        monkeypatch.setattr(addresses.socket, "getaddrinfo", self._answer)

    def _answer(self, host: str, port: int, **options: Any) -> list[Any]:
        if host != self.name:
            return self._real(host, port, **options)
        return [found for each in self.hosts for found in self._real(each, port, **options)]


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.2", 0))
        return found.getsockname()[1]


def test_a_fleet_behind_a_headless_service(monkeypatch: pytest.MonkeyPatch):
    """Real workers at several addresses of one name: one is killed and one comes."""
    monkeypatch.setenv("CODEJAX_WORKER_TOKEN", TOKEN)
    port = free_port()
    hosts = [f"127.0.0.{n}" for n in (2, 3, 4)]
    names = Names("codejax-worker", monkeypatch)
    names.hosts = hosts[:2]
    settings = FleetSettings(resolve_every=0.1, first_pause=0.05, backoff=0.02, patience=20.0)
    with contextlib.ExitStack() as stack:

        def start(host: str) -> Any:
            options = (f"--listen={host}:{port}", "--lanes=1", "--with-parent")
            return stack.enter_context(worker(*options))[0]

        first, _ = [start(host) for host in hosts[:2]]
        fleet = stack.enter_context(Fleet(f"dns:///codejax-worker:{port}", settings=settings))
        jobs, wanted = mixed_jobs(200, pause=0.02)
        answered: list[int] = []

        def disturb() -> None:
            while len(answered) < 20:
                time.sleep(0.01)
            first.kill()
            start(hosts[2])
            names.hosts = hosts[1:]

        change = threading.Thread(target=disturb)
        change.start()
        results = fleet.judge(jobs, lambda done, of: answered.append(done))
        change.join()
        assert [result.verdict for result in results] == wanted
        assert [result.job for result in results] == [job.id for job in jobs]
        deadline = time.monotonic() + 10
        while len({told.worker for told in fleet.workers()}) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        more, wanted = mixed_jobs(40, pause=0.021)
        results = fleet.judge(more)
        assert [result.verdict for result in results] == wanted
        assert len({result.worker for result in results}) == 2
