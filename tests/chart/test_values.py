"""Values that the chart refuses, and the effect of others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from testing.repository import REPOSITORY
from tests.chart.conftest import CHART, EVERYTHING, needs_helm, pods, render, run_helm
from tests.chart.test_chart import OF_THE_OPERATOR, VERSIONS
from tools.server import settings

pytestmark = needs_helm


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"replicaCount": 0},
        {"image": {"tag": "a b"}},
        {"image": {"repository": "Foo"}},
        {"image": {"repository": "catsdogs:1"}},
        {"image": {"repository": "registry.example.org/catsdogs:1"}},
        {"image": {"repository": "https://registry.example.org/catsdogs"}},
        {"canary": {"tag": f"sha256:{'1' * 64}"}},
        {"service": {"port": "http"}},
        {"ingress": {"enabled": True}},
        {"archive": {"url": "https://models.example.org/x.mar"}},
        {"archive": {"url": "file:///x.mar", "sha256": "0" * 64}},
        {"settings": {"PATH": "/x"}},
        {"ingress": {"enabled": True, "host": "https://photos.example.org"}},
        {"torchserve": {"resources": {"requests": {"cpu": "lots"}}}},
        {"torchserve": {"resources": {"limits": {"cpu": 0}}}},
        {"torchserve": {"resources": {"limits": {"cpu": "0m"}}}},
        {"torchserve": {"resources": {"limits": {"cpu": "1Gi"}}}},
        {"gateway": {"resources": {"limits": {"memory": "0"}}}},
        {"gateway": {"resources": {"limits": {"memory": "512m"}}}},  # half a byte
        {"gateway": {"resources": {"limits": {"memory": "1..5Gi"}}}},
        {"networkPolicy": {"metricsFrom": []}},
        # Null removes the default, and with it the requests.
        {"networkPolicy": {"metricsFrom": None}},
        {"networkPolicy": None},
        {"podDisruptionBudget": {"maxUnavailable": None}},
        {"autoscaling": {"targetCPUUtilizationPercentage": None}},
        {"canary": None},
        {"archive": None},
        # Settings of the chart itself, and those that would put a secret into a ConfigMap.
        {"settings": {"CATSDOGS_API_KEYS": "k" * 32}},
        {"settings": {"CATSDOGS_API_KEY": "k" * 32}},
        {"settings": {"CATSDOGS_HOST": "127.0.0.1"}},
        {"settings": {"CATSDOGS_PORT": "80"}},
        {"settings": {"CATSDOGS_METRICS_PORT": "9000"}},
        {"settings": {"CATSDOGS_TLS_CERT": "/tls/tls.crt"}},
        {"settings": {"CATSDOGS_UPLOADS": "/tmp"}},
        {"settings": {"CATSDOGS_LOGS": "file"}},
        {"settings": {"CATSDOGS_CLIENT_LIMIT": "of"}},
        {"settings": {"CATSDOGS_CLIENT_LIMIT": True}},  # YAML's value for on
        {"settings": {"CATSDOGS_TRUSTED_PROXIES": "10.0.0.0/8; 192.0.2.1"}},
        {"settings": {"TS_MANAGEMENT_ADDRESS": "http://0.0.0.0:8081"}},
        {"settings": {"TS_INFERENCE_ADDRESS": "http://0.0.0.0:8080"}},
        {"settings": {"TS_JOB_QUEUE_SIZE": "1OO"}},
        {"settings": {"TS_DEFAULT_WORKERS_PER_MODEL": "two"}},
        {"settings": {"TS_NUMBER_OF_NETTY_THREADS": -1}},
        {"settings": {"CATSDOGS_WATCHER_PORT": "80o4"}},
        {"settings": {"CATSDOGS_CANARY": 100, "CATSDOGS_CANARY_VERSION": "3.0"}},
        {"settings": {"CATSDOGS_CANARY": 10, "CATSDOGS_CANARY_VERSION": 3.0}},  # would become 3
        {"settings": {"CATSDOGS_CANARY": 10}},
        {"settings": {"CATSDOGS_CANARY_VERSION": "3.0"}},
        {"settings": {"CATSDOGS_TRUSTED_PROXIES": 10}},
        {"podLabels": {"app.kubernetes.io/name": "x"}},
        {"podLabels": {"app.kubernetes.io/component": "x"}},
        {"podLabels": {"team": "cats and dogs"}},
        {"podDisruptionBudget": {"maxUnavailable": "0%"}},
        {"serviceMonitor": {"labels": {"helm.sh/chart": "x"}}},
        {"serviceMonitor": {"interval": "5m"}},
        {"podAnnotations": {"checksum/settings": "x"}},
        {"imagePullSecrets": [{"nam": "x"}]},
        {"fullnameOverride": "true"},
        {"archive": {"url": "https://user:word@example.org/x.mar", "sha256": "0" * 64}},
        {"archive": {"url": "https://[2001:db8::1]:8443/x.mar", "sha256": "0" * 64}},
    ],
)
def test_values_that_can_not_be_meant_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="specifications of the schema"):
        render(values)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"replicas": 3}, "replicaCount"),
        ({"replicas": None}, "replicaCount"),
        ({"canary": {"replicas": 3}}, "canary.replicaCount"),
        ({"autoscaling": {"cpu": 80}}, "autoscaling.targetCPUUtilizationPercentage"),
        ({"autoscaling": {"memory": None}}, "autoscaling.targetMemoryUtilizationPercentage"),
    ],
)
def test_a_value_of_an_older_chart_is_refused_with_its_new_name(
    old: dict[str, Any], new: str
) -> None:
    with pytest.raises(ValueError, match=f"'renamed: write {re.escape(new)}'"):
        render(old)


@pytest.mark.parametrize(
    "image",
    [
        "catsdogs",
        "library/cats_dogs",
        "localhost:5000/a/b-c",
        "registry.example.org/team/pets.catsdogs",
        "Registry.example.org/catsdogs",
    ],
)
def test_an_image_may_come_from_any_registry(image: str) -> None:
    values = {"image": {"repository": image, "tag": "V1.5_rc-1"}}
    for pod in pods(render(values)):
        assert {container["image"] for container in pod["containers"]} == {f"{image}:V1.5_rc-1"}


@pytest.mark.parametrize(
    ("container", "what", "request_", "limit"),
    [
        ("torchserve", "cpu", "1100m", 1),
        ("torchserve", "memory", "1025Mi", "1Gi"),
        ("gateway", "cpu", 0.6, "500m"),
        ("gateway", "memory", 536870913, "512Mi"),
        ("gateway", "ephemeral-storage", "6G", "5Gi"),
    ],
)
def test_requests_above_limits_are_refused_by_name(
    container: str, what: str, request_: str | float, limit: str | float
) -> None:
    def resources(request_: str | float) -> dict[str, Any]:
        amounts = {"requests": {what: request_}, "limits": {what: limit}}
        return {container: {"resources": amounts}}

    with pytest.raises(
        ValueError, match=rf"{container}\.resources\.requests\.{what} is .*, more than"
    ):
        render(resources(request_))
    render(resources(limit))


@pytest.mark.parametrize(
    ("given", "rendered"), [(2, "2"), (12582912, "12582912"), (True, "true"), ("2", "2")]
)
def test_a_setting_may_be_a_number(given: object, rendered: str) -> None:
    name = "TS_ENABLE_METRICS_API" if given is True else "TS_MAX_REQUEST_SIZE"
    config = render({"settings": {name: given}})["ConfigMap", "pets-catsdogs"]
    assert config["data"][name] == rendered


def test_a_setting_may_be_a_number_on_the_command_line() -> None:
    text = run_helm("template", "pets", CHART, "--set", "settings.TS_JOB_QUEUE_SIZE=2")
    (config,) = [m for m in yaml.safe_load_all(text) if m["kind"] == "ConfigMap"]
    assert config["data"]["TS_JOB_QUEUE_SIZE"] == "2"


def test_settings_that_are_taken_are_variables_of_the_gateway() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    pattern = schema["properties"]["settings"]["propertyNames"]["pattern"]
    names = re.findall(r"[A-Z_]+", re.findall(r"CATSDOGS_\(([^)]*)\)", pattern)[0])
    assert {f"CATSDOGS_{name}" for name in names} <= settings.VARIABLES.keys()


def test_an_autoscaler_needs_room_between_its_bounds() -> None:
    with pytest.raises(ValueError, match="minReplicas is more than"):
        render({"autoscaling": {"minReplicas": 6}})


def test_the_autoscaler_uses_memory_only_if_configured() -> None:
    for values, expected in (
        ({}, ["cpu"]),
        (
            {"autoscaling": {"targetMemoryUtilizationPercentage": 80}},
            ["cpu", "memory"],
        ),
    ):
        autoscaler = render(values)["HorizontalPodAutoscaler", "pets-catsdogs"]["spec"]
        assert [metric["resource"]["name"] for metric in autoscaler["metrics"]] == expected


def test_the_readmes_own_values_are_taken() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    values = yaml.safe_load(example)
    assert render(values)["Ingress", "pets-catsdogs"]["spec"]["tls"]
    # The same values as the gateway accepts.
    body = values["ingress"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert f"client_max_body_size {body};" in (REPOSITORY / "gateway/nginx.conf").read_text()


def paths(values: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, inner in values.items():
        yield (*before, key)
        if isinstance(inner, dict):
            yield from paths(inner, (*before, key))


def with_null(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """A copy of `values` with a null at `path`."""
    key, *rest = path
    inner = values.get(key)
    inner = inner if isinstance(inner, dict) else {}
    return values | {key: with_null(inner, tuple(rest)) if rest else None}


@pytest.mark.parametrize(
    "path", [*paths(yaml.safe_load((CHART / "values.yaml").read_text()))], ids=".".join
)
def test_null_is_refused_or_means_nothing(path: tuple[str, ...]) -> None:
    values = with_null(EVERYTHING, path)
    try:
        manifests = render(values)
    except ValueError as error:
        assert "specifications of the schema" in str(error)  # noqa: PT017
        return
    for (kind, _), manifest in manifests.items():
        if kind not in OF_THE_OPERATOR:
            kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
        assert "null" not in yaml.safe_dump(manifest).split()


def test_names_that_look_like_numbers_stay_names() -> None:
    number = "0123"
    manifests = render(
        EVERYTHING
        | {
            "archive": {"existingClaim": number},
            "apiKeys": {"existingSecret": number, "key": number},
            "imagePullSecrets": [number, {"name": number}],
            "priorityClassName": number,
            "ingress": {"enabled": True, "host": "x", "className": number, "tlsSecret": number},
        }
    )
    for (kind, _), manifest in manifests.items():
        if kind not in OF_THE_OPERATOR:
            kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    for pod in pods(manifests):
        assert pod["imagePullSecrets"] == [{"name": number}] * 2


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://example.org/x.mar", 443),
        ("http://example.org/x.mar?by=me@example.org", 80),
        ("https://example.org:8443/x.mar", 8443),
    ],
)
def test_an_archives_address_opens_its_port_and_no_other(url: str, port: int) -> None:
    manifests = render({"archive": {"url": url, "sha256": "0" * 64}})
    policy = manifests["NetworkPolicy", "pets-catsdogs"]["spec"]["egress"]
    assert {row["port"] for rule in policy for row in rule["ports"]} == {port, 53}
