"""The worker's manifests for Kubernetes as data, and the rules that they must keep.

Each rule takes a `Bundle` and raises AssertionError where it is broken.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import yaml

from codejax.execution.access import Access
from codejax.execution.capabilities import Load
from codejax.execution.metrics import Metrics

WORKER = pathlib.Path(__file__).parents[2] / "launch/worker"
SLACK = 15  # seconds of a pod's grace beyond the drain
# Of gVisor's own kernel, where a program's user is all that keeps it from the worker.
OFFICES = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID", "SYS_PTRACE"}
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}
JOB, BOX = 1 << 30, 256 << 20  # memory that a lane's job and its files are given at least


@dataclasses.dataclass
class Bundle:
    """What is applied together, by kind; the rule of the Prometheus adapter; the image."""

    objects: dict[str, dict[str, Any]]
    adapter: dict[str, Any]
    secret: dict[str, Any]
    entrypoint: list[str]
    command: list[str]

    @property
    def pod(self) -> dict[str, Any]:
        """The pod of the Deployment."""
        return self.objects["Deployment"]["spec"]["template"]["spec"]

    @property
    def container(self) -> dict[str, Any]:
        """The one container of it."""
        (container,) = self.pod["containers"]
        return container

    @property
    def flags(self) -> dict[str, str]:
        """What the worker is told, by option."""
        return dict(flag.removeprefix("--").split("=", 1) for flag in self.container["args"])

    def port(self, flag: str) -> int:
        """The port that an option names."""
        return int(self.flags[flag].rpartition(":")[2])


def read_bundle(overlay: str) -> Bundle:
    """The base, or an overlay's patch on it."""
    folder = WORKER / "kubernetes"
    kustomization = yaml.safe_load((folder / "base/kustomization.yaml").read_text())
    listed = [yaml.safe_load((folder / "base" / n).read_text()) for n in kustomization["resources"]]
    objects = {made["kind"]: made for made in listed}
    assert len(objects) == len(listed)
    for made in objects.values():
        if made["kind"] != "Namespace":
            made["metadata"].setdefault("namespace", kustomization["namespace"])
    if overlay != "base":
        settings = yaml.safe_load((folder / overlay / "kustomization.yaml").read_text())
        assert settings["resources"] == ["../base"]
        for patch in settings["patches"]:
            change = yaml.safe_load((folder / overlay / patch["path"]).read_text())
            objects[change["kind"]] = merge(objects[change["kind"]], change)
    text = (WORKER / "Dockerfile").read_text()
    return Bundle(
        objects,
        yaml.safe_load((folder / "prometheus-adapter.yaml").read_text()),
        yaml.safe_load((folder / "secret.example.yaml").read_text()),
        *(json.loads(re.findall(rf"^{word} (\[.*\])", text, re.M)[-1]) for word in INSTRUCTIONS),
    )


INSTRUCTIONS = ("ENTRYPOINT", "CMD")


def merge(below: Any, above: Any) -> Any:
    """A strategic merge: mappings by key, lists of named things by name, other lists replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        merged = {key: merge(below.get(key), value) for key, value in above.items()}
        return below | merged
    if (
        isinstance(above, list)
        and isinstance(below, list)
        and all("name" in _dict(x) for x in above)
    ):
        names = {item["name"]: item for item in above}
        return [merge(item, names.pop(item["name"], {})) for item in below] + list(names.values())
    return copy.deepcopy(above)


def _dict(item: Any) -> dict[str, Any]:
    return item if isinstance(item, dict) else {}


def labels_match(bundle: Bundle) -> None:
    """What selects the pods selects them, in the same namespace."""
    deployment = bundle.objects["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = {
        "Deployment": deployment["spec"]["selector"]["matchLabels"],
        "Service": bundle.objects["Service"]["spec"]["selector"],
        "NetworkPolicy": bundle.objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        "PodDisruptionBudget": bundle.objects["PodDisruptionBudget"]["spec"]["selector"][
            "matchLabels"
        ],
    }
    for kind, selector in selectors.items():
        assert selector, kind
        assert selector.items() <= labels, kind
    assert len({made["metadata"].get("namespace") for made in namespaced(bundle)}) == 1
    assert bundle.secret["metadata"]["namespace"] == bundle.objects["Namespace"]["metadata"]["name"]


def namespaced(bundle: Bundle) -> list[dict[str, Any]]:
    """All but the namespace."""
    return [made for kind, made in bundle.objects.items() if kind != "Namespace"]


def ports_match(bundle: Bundle) -> None:
    """Every port that is named is one that the worker listens on, beyond loopback."""
    container = bundle.container
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listen, metrics = bundle.port("listen"), bundle.port("metrics-listen")
    assert ports == {"grpc": listen, "metrics": metrics}
    assert all(bundle.flags[name].startswith("0.0.0.0:") for name in ("listen", "metrics-listen"))
    (port,) = bundle.objects["Service"]["spec"]["ports"]
    assert (port["port"], ports[port["targetPort"]]) == (listen, listen)
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == listen, probe
    annotations = bundle.objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(metrics)


def is_headless(bundle: Bundle) -> None:
    """The Service's name stands for the pods that are ready."""
    spec = bundle.objects["Service"]["spec"]
    assert spec["clusterIP"] == "None"
    assert not spec.get("publishNotReadyAddresses")


def is_unprivileged(bundle: Bundle) -> None:
    """Nothing of the node is within reach."""
    pod, context = bundle.pod, bundle.container["securityContext"]
    outer = pod.get("runtimeClassName") == "gvisor"
    for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        assert not pod.get(name), name
    assert not pod.get("initContainers")
    assert all(next(k for k in v if k != "name") in ("secret", "emptyDir") for v in pod["volumes"])
    assert all("hostPort" not in port for port in bundle.container["ports"])
    assert not context.get("privileged")
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"].get("add", ())) <= (OFFICES if outer else set())
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    if not outer:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0


def isolation_is_demanded(bundle: Bundle) -> None:
    """The level that a runtime gives is the least that the worker accepts; it says so itself."""
    outer = bundle.pod.get("runtimeClassName") == "gvisor"
    assert int(bundle.flags["min-isolation"]) == (4 if outer else 1)
    assert "unsafe" not in str(bundle.container["args"])
    assert not bundle.container.get("env")  # CODEJAX_OUTER_SANDBOX would take its place


def nothing_goes_out(bundle: Bundle) -> None:
    """No egress; ingress by port, from namespaces that are named."""
    spec = bundle.objects["NetworkPolicy"]["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    assert spec["egress"] == []
    found = set()
    for rule in spec["ingress"]:
        for source in rule["from"]:
            assert source["namespaceSelector"]["matchLabels"]
        found |= {port["port"] for port in rule["ports"]}
        assert len(rule["ports"]) == 1
    assert found == {bundle.port("listen"), bundle.port("metrics-listen")}


def scales_on_what_is_exported(bundle: Bundle) -> None:
    """The autoscaler moves the Deployment, by metrics that a worker and the adapter have."""
    spec = bundle.objects["HorizontalPodAutoscaler"]["spec"]
    deployment = bundle.objects["Deployment"]
    wanted = {key: deployment[key] for key in ("apiVersion", "kind")}
    assert spec["scaleTargetRef"] == wanted | {"name": deployment["metadata"]["name"]}
    assert deployment["spec"]["replicas"] >= spec["minReplicas"] > 0
    pods = {
        metric["pods"]["metric"]["name"]: metric["pods"]["target"] for metric in spec["metrics"]
    }
    assert "codejax_worker_queue_wait_now_seconds" in pods
    assert pods.keys() <= exported()
    (rule,) = bundle.adapter["rules"]["custom"]
    named = re.search(r'__name__=~"([^"]+)"', rule["seriesQuery"])
    assert named
    for name, target in pods.items():
        assert re.fullmatch(named[1], name), name
        assert target["type"] == "AverageValue"
    busy = float(pods["codejax_worker_lanes_busy"]["averageValue"].removesuffix("m")) / 1000
    assert 0.5 <= busy / int(bundle.flags["lanes"]) < 1


def exported() -> set[str]:
    """The names on a worker's page of metrics."""
    metrics = Metrics()
    metrics.watch(Load, 1)
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


def there_is_time_to_drain(bundle: Bundle) -> None:
    """A pod is killed only after its worker has given up waiting."""
    drain = float(bundle.flags["drain-seconds"])
    assert bundle.pod["terminationGracePeriodSeconds"] >= drain + SLACK
    assert "lifecycle" not in bundle.container


def resources_fit_the_lanes(bundle: Bundle) -> None:
    """A core for each lane; memory for a job and its files of each lane and of each session."""
    lanes = int(bundle.flags["lanes"])
    jails = lanes + int(bundle.flags["sessions"])
    resources = bundle.container["resources"]
    assert resources["requests"] == resources["limits"]  # no neighbour takes them
    assert int(resources["limits"]["cpu"]) == lanes
    (boxes,) = [volume for volume in bundle.pod["volumes"] if "emptyDir" in volume]
    assert boxes["emptyDir"]["medium"] == "Memory"
    size = size_of(boxes["emptyDir"]["sizeLimit"])
    assert size >= jails * BOX
    assert size_of(resources["limits"]["memory"]) >= jails * JOB + size


def size_of(text: str) -> int:
    """Bytes of 8Gi."""
    return int(text[:-2]) * UNITS[text[-2:]]


def token_is_mounted_and_not_given(bundle: Bundle) -> None:
    """The worker reads its token where the Secret lies; the example is no token."""
    mounts = {mount["name"]: mount["mountPath"] for mount in bundle.container["volumeMounts"]}
    (volume,) = [volume for volume in bundle.pod["volumes"] if "secret" in volume]
    assert volume["secret"]["secretName"] == bundle.secret["metadata"]["name"]
    assert volume["secret"]["defaultMode"] & 0o007 == 0
    ((key, value),) = bundle.secret["stringData"].items()
    assert bundle.flags["token-file"] == f"{mounts[volume['name']]}/{key}"
    assert "/tmp" in mounts.values()
    try:
        Access(value).check()
    except ValueError:
        return
    raise AssertionError("the example is a token that a worker would take")


def flags_are_the_images(bundle: Bundle) -> None:
    """The Deployment gives arguments alone, with all that the image gives by default."""
    assert "command" not in bundle.container
    given = dict(flag.removeprefix("--").split("=", 1) for flag in bundle.command)
    assert given.items() <= bundle.flags.items()


RULES = (
    labels_match,
    ports_match,
    is_headless,
    is_unprivileged,
    isolation_is_demanded,
    nothing_goes_out,
    scales_on_what_is_exported,
    there_is_time_to_drain,
    resources_fit_the_lanes,
    token_is_mounted_and_not_given,
    flags_are_the_images,
)


def broken_rules(bundle: Bundle) -> Iterator[str]:
    """The names of the rules that a bundle breaks."""
    for rule in RULES:
        try:
            rule(bundle)
        except (AssertionError, KeyError, ValueError, TypeError):
            yield rule.__name__
