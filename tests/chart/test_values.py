"""Which values the chart refuses, and that the others are taken as they are meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.chart.conftest import CHART, EVERYTHING, needs_helm, pods, render
from tests.chart.test_chart import OF_THE_OPERATOR, VERSIONS
from tests.conftest import REPOSITORY
from tests.tools.test_sizes import tool

pytestmark = needs_helm


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"replicas": 0},
        {"service": {"port": "http"}},
        {"ingress": {"enabled": True}},
        {"archive": {"url": "https://models.example.org/x.mar"}},
        {"archive": {"url": "file:///x.mar", "sha256": "0" * 64}},
        {"settings": {"PATH": "/x"}},
        {"torchserve": {"resources": {"requests": {"cpu": "lots"}}}},
        {"networkPolicy": {"metricsFrom": []}},
        # Null takes the default away, and with it what is asked for.
        {"networkPolicy": {"metricsFrom": None}},
        {"networkPolicy": None},
        {"podDisruptionBudget": {"maxUnavailable": None}},
        {"autoscaling": {"cpu": None}},
        {"canary": None},
        {"archive": None},
        # Those the chart itself sets, or that would put a secret into a ConfigMap.
        {"settings": {"CATSDOGS_API_KEYS": "k" * 32}},
        {"settings": {"CATSDOGS_API_KEY": "k" * 32}},
        {"settings": {"CATSDOGS_HOST": "127.0.0.1"}},
        {"settings": {"CATSDOGS_PORT": "80"}},
        {"settings": {"CATSDOGS_METRICS_PORT": "9000"}},
        {"settings": {"CATSDOGS_TLS_CERT": "/tls/tls.crt"}},
        {"settings": {"CATSDOGS_UPLOADS": "/tmp"}},
        {"settings": {"CATSDOGS_LOGS": "file"}},
        {"settings": {"CATSDOGS_CLIENT_LIMIT": "of"}},
        {"settings": {"CATSDOGS_CLIENT_LIMIT": True}},  # what YAML makes of on
        {"settings": {"CATSDOGS_TRUSTED_PROXIES": "10.0.0.0/8; 192.0.2.1"}},
        {"settings": {"TS_MANAGEMENT_ADDRESS": "http://0.0.0.0:8081"}},
        {"settings": {"TS_INFERENCE_ADDRESS": "http://0.0.0.0:8080"}},
        {"podLabels": {"app.kubernetes.io/name": "x"}},
        {"podLabels": {"app.kubernetes.io/component": "x"}},
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


def test_settings_that_are_taken_are_variables_of_the_gateway() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    pattern = schema["properties"]["settings"]["propertyNames"]["pattern"]
    names = re.findall(r"[A-Z_]+", re.findall(r"CATSDOGS_\(([^)]*)\)", pattern)[0])
    assert {f"CATSDOGS_{name}" for name in names} <= tool("settings").VARIABLES.keys()


def test_an_autoscaler_needs_room_between_its_bounds() -> None:
    with pytest.raises(ValueError, match="minReplicas is more than"):
        render({"autoscaling": {"minReplicas": 6}})


def test_an_autoscaler_of_ones_own_finds_no_number_of_pods() -> None:
    manifests = render({"autoscaling": {"enabled": False}, "replicas": None})
    assert "replicas" not in manifests["Deployment", "pets-catsdogs"]["spec"]


def test_the_autoscaler_looks_at_memory_only_where_it_is_told_to() -> None:
    for values, expected in ({}, ["cpu"]), ({"autoscaling": {"memory": 80}}, ["cpu", "memory"]):
        autoscaler = render(values)["HorizontalPodAutoscaler", "pets-catsdogs"]["spec"]
        assert [metric["resource"]["name"] for metric in autoscaler["metrics"]] == expected


def test_the_readmes_own_values_are_taken() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    values = yaml.safe_load(example)
    assert render(values)["Ingress", "pets-catsdogs"]["spec"]["tls"]
    # As much as the gateway itself takes.
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
