"""The number of pods in the chart's manifest, depending on the cluster.

When Helm leaves out a number that it has set before, the Deployment falls to one pod. And a
rollback brings back the number of its manifest, whatever an autoscaler has made of it since.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import yaml

from tests.chart.cluster import cluster
from tests.chart.conftest import CHART, needs_helm, render, run_helm

pytestmark = needs_helm

AUTOSCALED: dict[str, Any] = {}  # by default
BY_ANOTHER = {"autoscaling": {"enabled": False}, "replicaCount": None}
FIXED = {"autoscaling": {"enabled": False}, "replicaCount": 4}


def owner(operation: str, subresource: str = "", *fields: str) -> dict[str, Any]:
    """An entry of a Deployment's managedFields, by default of its spec.replicas."""
    spec = {f"f:{field}": {} for field in fields or ("replicas", "strategy")}
    return {"operation": operation, "subresource": subresource, "fieldsV1": {"f:spec": spec}}


HELM = owner("Apply")
HELM_WITHOUT_NUMBER = owner("Apply", "", "strategy")
SCALED = owner("Update", "scale", "replicas")  # by an autoscaler, or by `kubectl scale`
STATUS = {"operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}}
HELM_3 = owner("Update")


def upgraded(values: dict[str, Any], *owners: dict[str, Any]) -> int | None:
    """spec.replicas of the manifest with which Helm upgrades a Deployment of three pods."""
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "pets-catsdogs", "namespace": "default", "managedFields": [*owners, STATUS]
        },
        "spec": {"replicas": 3},
    }  # fmt: skip
    kinds = sorted({(m["apiVersion"], m["kind"]) for m in render(values).values()})
    with cluster([deployment], kinds) as address:
        text = run_helm(
            "template", "pets", CHART, "--is-upgrade", "--dry-run=server",
            "--disable-openapi-validation", "--kubeconfig", os.devnull, "--kube-apiserver", address,
            "--show-only", "templates/deployment.yaml", values=values,
        )  # fmt: skip
    replicas: int | None = yaml.safe_load(text)["spec"].get("replicas")
    return replicas


@pytest.mark.parametrize("values", [AUTOSCALED, BY_ANOTHER])
def test_a_number_that_helm_has_set_stays_when_an_autoscaler_takes_over(
    values: dict[str, Any],
) -> None:
    assert upgraded(values, HELM) == 3


@pytest.mark.parametrize("values", [AUTOSCALED, BY_ANOTHER])
@pytest.mark.parametrize("owners", [(HELM_WITHOUT_NUMBER, SCALED), (HELM_WITHOUT_NUMBER,)])
def test_no_manifest_holds_the_number_of_an_autoscaler(
    values: dict[str, Any], owners: tuple[dict[str, Any], ...]
) -> None:
    """A rollback to it would undo what the autoscaler has done."""
    assert upgraded(values, *owners) is None


def test_of_helm_3_whose_patches_know_no_owners_the_number_is_left_alone() -> None:
    assert upgraded(AUTOSCALED, HELM_3) is None


@pytest.mark.parametrize("owners", [(HELM,), (HELM_WITHOUT_NUMBER, SCALED)])
def test_a_fixed_number_is_what_the_values_say(owners: tuple[dict[str, Any], ...]) -> None:
    assert upgraded(FIXED, *owners) == 4


@pytest.mark.parametrize("values", [AUTOSCALED, BY_ANOTHER])
def test_without_a_cluster_and_at_the_first_install_the_number_is_an_autoscalers(
    values: dict[str, Any],
) -> None:
    """GitOps tools render without one, each time: a number would undo their autoscaler's."""
    assert "replicas" not in render(values)["Deployment", "pets-catsdogs"]["spec"]
