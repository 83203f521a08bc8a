"""The chart, rendered by the real helm."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.repository import REPOSITORY
from tests.chart import helm

CHART = REPOSITORY / "helm/catsdogs"
# All options switched on.
EVERYTHING: dict[str, Any] = {
    "canary": {"enabled": True, "tag": "3.0"},
    "ingress": {"enabled": True, "host": "photos.example.org", "tlsSecret": "tls"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "apiKeys": {"existingSecret": "keys"},
    "archive": {"url": "https://models.example.org/catsdogs.mar", "sha256": "0" * 64},
    "imagePullSecrets": ["registry"],
    "priorityClassName": "high",
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "photos", "operator": "Exists"}],
    "podLabels": {"team": "pets"},
    "podAnnotations": {"note": "yes"},
}

needs_helm = pytest.mark.skipif(
    helm.path() is None and not os.environ.get("CATSDOGS_REQUIRE"), reason="there is no helm"
)


def run_helm(*arguments: str | Path, values: dict[str, Any] | None = None) -> str:
    """The output of helm. Raises ValueError with its error message."""
    command = [helm.path() or "helm", *arguments, "--values", "-"]
    done = subprocess.run(
        command, input=yaml.safe_dump(values or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


def render(
    values: dict[str, Any] | None = None, release: str = "pets", namespace: str = "default"
) -> dict[tuple[str, str], dict[str, Any]]:
    """Manifests by kind and name, including the test's pod."""
    text = run_helm("template", release, CHART, "--namespace", namespace, values=values)
    manifests = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    named = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    assert len(named) == len(manifests), "two of the same kind have one name"
    return named


def pods(manifests: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Their specifications."""
    return [
        manifest["spec"]["template"]["spec"] if kind == "Deployment" else manifest["spec"]
        for (kind, _), manifest in manifests.items()
        if kind in ("Deployment", "Pod")
    ]


def quantity(text: str | int) -> float:
    """A Kubernetes quantity as a number: 500m is 0.5, 1Gi is 2**30."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(text)).groups()  # type: ignore[union-attr]
    factors = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return float(number) * factors[unit]


def app_version() -> str:
    return str(yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"])
