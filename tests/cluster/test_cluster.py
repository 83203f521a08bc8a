"""The chart in a cluster, from the first install to its complete removal.

One release for all of these, in this order; each leaves it up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import requests

from testing.load import CAT
from testing.servers import wait_until
from tests.cluster.conftest import Release, run

FIXED = {"autoscaling.enabled": "false", "replicaCount": "3"}
KEY = "k" * 32


def test_it_is_installed_where_pods_are_restricted_and_passes_its_test(release: Release) -> None:
    assert release.first_deploy.count("\nok      ") == 8
    assert "would violate PodSecurity" not in release.first_deploy
    namespace = json.loads(run("kubectl", "get", "namespace", release.namespace, "-o", "json"))
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_an_upgrade_under_load_loses_no_photo(release: Release) -> None:
    before = {pod["metadata"]["name"] for pod in release.pods()}
    with release.load():
        release.deployed({"podAnnotations.try": "upgrade"})
    assert not before & {pod["metadata"]["name"] for pod in release.pods()}


def test_a_broken_upgrade_says_why_and_goes_back_without_a_lost_photo(release: Release) -> None:
    wrong = {
        "archive.url": f"http://{release.deployment}:8000/openapi.yaml", "archive.sha256": "a" * 64
    }  # fmt: skip
    with release.load(), release.available() as available:
        done = release.deploy(wrong, timeout="60s")
    assert done.returncode != 0
    assert re.search(r"container archive: .*its sha256 is \w{64}, not a{64}", done.stdout)
    assert re.search(r"Pod pets-catsdogs-\S+: BackOff", done.stdout)
    assert "Rolling back to revision" in done.stdout
    assert min(available) >= 2
    template = release.get(f"deployment/{release.deployment}")["spec"]["template"]
    assert "initContainers" not in template["spec"]


def test_a_rollback_under_load_loses_no_photo(release: Release) -> None:
    good = release.revision()
    release.deployed({"podAnnotations.try": "rollback"})
    with release.load():
        release.helm("rollback", release.name, str(good), "--wait", "--force-conflicts")
    tries = [pod["metadata"]["annotations"].get("try") for pod in release.pods()]
    assert tries == ["upgrade"] * 2


def test_a_pod_that_is_drained_loses_no_photo(release: Release) -> None:
    """Through the API that `kubectl drain` uses."""
    name = release.pods()[0]["metadata"]["name"]
    path = f"/api/v1/namespaces/{release.namespace}/pods/{name}/eviction"
    eviction = {
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": release.namespace},
    }  # fmt: skip
    with release.load():
        run("kubectl", "create", "--raw", path, "--filename", "-", text=json.dumps(eviction))
        wait_until(lambda: name not in release.kubectl("get", "pods", "--output", "name"), 120)
        wait_until(lambda: release.ready() == 2, 120)


def test_pods_stay_when_the_autoscaler_takes_over_a_fixed_number(release: Release) -> None:
    release.deployed(FIXED)
    wait_until(lambda: release.ready() == 3, 120)
    with release.load(), release.available() as available:
        release.deployed()
        release.deployed({"podAnnotations.try": "autoscaled"})
    assert min(available) >= 3


def test_what_was_changed_by_hand_is_no_obstacle(release: Release) -> None:
    release.deployed(FIXED)
    release.kubectl("scale", f"deployment/{release.deployment}", "--replicas", "4")
    image = "torchserve=catsdogs:by-hand"
    release.kubectl("set", "image", f"deployment/{release.deployment}", image)
    with release.load():
        release.deployed(FIXED)
        wait_until(lambda: release.ready() == len(release.pods()) == 3, 120)


def test_a_canary_answers_its_share_and_leaves_without_a_lost_photo(release: Release) -> None:
    with release.load():
        release.deployed({"canary.enabled": "true"})
        assert release.ready("canary") == 1
    labels = f"app.kubernetes.io/instance={release.name},app.kubernetes.io/component=canary"
    logs = ("logs", "--selector", labels, "--container", "gateway", "--tail", "-1")
    assert '"path":"/predict"' in release.kubectl(*logs).replace(" ", "")
    with release.load():
        release.deployed()
        wait_until(lambda: not release.pods("canary"), 120)


@pytest.fixture
def keys(release: Release) -> Iterator[str]:
    """Name of a Secret with one key."""
    release.kubectl("create", "secret", "generic", "keys", f"--from-literal=api-keys={KEY}")
    yield "keys"
    release.deployed()
    release.kubectl("delete", "secret", "keys")


def test_with_keys_only_who_has_one_is_answered(release: Release, keys: str) -> None:
    release.deployed({"apiKeys.existingSecret": keys})
    url = f"{release.address()}/predict"
    statuses = [
        requests.post(url, data=CAT, headers=headers, timeout=30).status_code
        for headers in ({}, {"X-API-Key": KEY})
    ]
    assert statuses == [401, 200]


def test_uninstalled_it_leaves_nothing_not_even_of_a_test_that_failed(release: Release) -> None:
    with pytest.raises(AssertionError, match="not ready|deadline"):
        release.helm("test", release.name, "--timeout", "1s")
    release.helm("uninstall", release.name, "--wait")
    kinds = run("kubectl", "api-resources", "--namespaced", "--verbs", "list", "--output", "name")
    wanted = ",".join(kind for kind in kinds.split() if not kind.startswith("events"))

    def left() -> list[str]:
        names = release.kubectl("get", wanted, "--output", "name", "--ignore-not-found").split()
        return [name for name in names if release.name in name.partition("/")[2]]

    wait_until(lambda: left() == [], 120)
