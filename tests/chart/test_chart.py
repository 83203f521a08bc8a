"""What the chart renders, for many values."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.repository import REPOSITORY, VERSION
from tests.chart.conftest import (
    CHART,
    EVERYTHING,
    app_version,
    needs_helm,
    pods,
    quantity,
    render,
    run_helm,
)
from tests.chart.values_table import table
from tools.server import sizes

pytestmark = needs_helm

VERSIONS = [f"1.{minor}" for minor in range(29, 36)]
OF_THE_OPERATOR = ("ServiceMonitor", "PrometheusRule")  # no schemas of Kubernetes' own
# Names of releases: Helm accepts 53 characters, including dots.
names = st.from_regex(
    r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?|[a-z0-9]([a-z0-9-]{0,24}[a-z0-9])?(\.[a-z0-9]{1,13}){2}",
    fullmatch=True,
)


def test_helm_finds_nothing_to_complain_of() -> None:
    assert "0 chart(s) failed" in run_helm("lint", "--strict", CHART)
    run_helm("lint", "--strict", CHART, values=EVERYTHING)


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_what_kubernetes_knows_and_nothing_more(version: str) -> None:
    claim = {"archive": {"existingClaim": "models"}, "autoscaling": {"enabled": False}}
    for values in ({}, EVERYTHING, claim):
        for (kind, _), manifest in render(values).items():
            if kind not in OF_THE_OPERATOR:
                kubernetes_validate.validate(manifest, version, strict=True)


@given(names, st.sampled_from(["", *"ab", "a-long-name-of-a-chart-that-goes-on-and-on"]))
@settings(max_examples=25)
def test_names_are_valid_whatever_the_release_is_called(release: str, name: str) -> None:
    for (kind, found), manifest in render(EVERYTHING | {"nameOverride": name}, release).items():
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", found), found
        if kind not in OF_THE_OPERATOR:
            kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
        for key, label in manifest["metadata"]["labels"].items():
            assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", label), key


def test_a_release_may_have_a_dot_in_its_name() -> None:
    manifests = render(EVERYTHING, "pets.v1")
    assert ("Service", "pets-v1-catsdogs") in manifests
    labels = manifests["Deployment", "pets-v1-catsdogs"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "pets.v1"


def test_a_name_that_is_cut_ends_with_no_dash() -> None:
    names = [name for _, name in render(EVERYTHING, "a" * 50 + "--b")]
    assert min(map(len, names)) == 50
    assert not [name for name in names if name.endswith("-")]


@pytest.mark.parametrize("pair", [("y", "n"), ("catsdogs", "catsdogs-2"), ("a" * 53, "b" * 53)])
def test_two_releases_live_side_by_side(pair: tuple[str, str]) -> None:
    one, other = (render(EVERYTHING, release) for release in pair)
    assert not one.keys() & other.keys()
    for (kind, _), service in one.items():
        if kind == "Service":
            for pod in deployments(other):
                labels = pod["spec"]["template"]["metadata"]["labels"]
                assert not service["spec"]["selector"].items() <= labels.items()


def deployments(manifests: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    return [manifest for (kind, _), manifest in manifests.items() if kind == "Deployment"]


def test_pods_keep_to_the_restricted_standard_and_have_no_token() -> None:
    for pod in pods(render(EVERYTHING)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.get("hostNetwork")
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            for amounts in container["resources"].values():
                assert amounts.keys() >= {"cpu", "memory"}
        for volume in pod.get("volumes", []):
            assert volume.keys() <= {"name", "emptyDir", "persistentVolumeClaim"}


def test_no_port_of_torchserve_is_named_anywhere() -> None:
    manifests = render(EVERYTHING)
    ports = [
        port["containerPort"]
        for pod in pods(manifests)
        for container in pod["containers"]
        for port in container.get("ports", [])
    ]
    assert set(ports) == {8000, 8002}
    services = {name: m["spec"] for (kind, name), m in manifests.items() if kind == "Service"}
    assert [port["targetPort"] for port in services["pets-catsdogs"]["ports"]] == ["http"]
    assert services["pets-catsdogs-metrics"]["clusterIP"] == "None"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"secondsBeforeStop": 60},
        {"secondsBeforeStop": 0, "terminationGracePeriodSeconds": 30},
        {"terminationGracePeriodSeconds": 600},
    ],
)
def test_a_pod_may_take_long_enough_to_end(values: dict[str, Any]) -> None:
    pod = serving_pod(values)
    waits = {tuple(c["lifecycle"]["preStop"]["exec"]["command"]) for c in pod["containers"]}
    ((_, before_stop),) = waits
    grace = number_in("gateway/nginx.conf", r"worker_shutdown_timeout (\d+)s;")
    drain = number_in("tools/server/torchserve.py", r"SECONDS_TO_DRAIN = (\d+)")
    assert pod["terminationGracePeriodSeconds"] > int(before_stop) + grace + 1 + drain + 20
    assert pod["terminationGracePeriodSeconds"] >= values.get("terminationGracePeriodSeconds", 75)


def serving_pod(values: dict[str, Any] | None = None) -> dict[str, Any]:
    (pod,) = [pod for pod in pods(render(values)) if len(pod["containers"]) == 2]
    return pod


def number_in(file: str, pattern: str) -> int:
    (number,) = re.findall(pattern, (REPOSITORY / file).read_text())
    return int(number)


def test_both_containers_see_the_uploads_where_the_image_says() -> None:
    (folder,) = re.findall(r"CATSDOGS_UPLOADS=(\S+)", (REPOSITORY / "Dockerfile").read_text())
    mounts = {
        container["name"]: [m for m in container["volumeMounts"] if m["name"] == "uploads"]
        for container in serving_pod()["containers"]
    }
    assert mounts == {
        "torchserve": [{"name": "uploads", "mountPath": folder, "readOnly": True}],
        "gateway": [{"name": "uploads", "mountPath": folder}],
    }


def test_uploads_fit_on_the_disk_that_a_pod_may_take() -> None:
    """Kubelets evict pods that exceed it."""
    pod = serving_pod({"archive": EVERYTHING["archive"]})
    room = {v["name"]: quantity(v["emptyDir"]["sizeLimit"]) for v in pod["volumes"]}
    large = number_in("gateway/photo.conf", r"limit_conn large (\d+);")
    largest = number_in("gateway/nginx.conf", r"client_max_body_size (\d+)m;") * 2**20
    small = number_in("gateway/photo.conf", r"limit_conn small (\d+);")
    assert room["uploads"] > 1.2 * (large * largest + small * 2**16)
    logs = 2 * 5 * 10 * 2**20  # a kubelet keeps five files of 10 MiB of each container
    limits = [quantity(c["resources"]["limits"]["ephemeral-storage"]) for c in pod["containers"]]
    assert sum(limits) > sum(room.values()) + logs
    for container in pod["containers"]:
        requested = container["resources"]["requests"]["ephemeral-storage"]
        assert quantity(requested) <= 2**30, "pods would not fit on small nodes"


def test_the_gateway_lives_while_torchserve_starts_and_is_ready_when_photos_are_answered() -> None:
    (gateway,) = [c for c in serving_pod()["containers"] if c["name"] == "gateway"]
    asked = {name: gateway[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in asked.items()}
    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}
    assert {probe["httpGet"]["port"] for probe in asked.values()} == {"metrics"}
    assert (
        asked["readiness"]["timeoutSeconds"]
        > number_in("tools/server/watcher.py", r"SECONDS_TO_PROBE = (\d+)") + 1
    )


def test_clients_behind_an_ingress_do_not_share_one_limit() -> None:
    settings = render()["ConfigMap", "pets-catsdogs"]["data"]
    assert settings == {"CATSDOGS_CLIENT_LIMIT": "off", "CATSDOGS_TRUSTED_PROXIES": ""}


def test_other_settings_are_other_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        (deployment,) = deployments(render(values))
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/settings"])

    assert checksum({}) != checksum({"settings": {"TS_DEFAULT_WORKERS_PER_MODEL": "1"}})


def test_a_canary_is_a_deployment_of_its_own_behind_the_same_service() -> None:
    manifests = render({"canary": {"enabled": True, "tag": "3.0", "replicaCount": 3}})
    stable, canary = (
        manifests["Deployment", name] for name in ("pets-catsdogs", "pets-catsdogs-canary")
    )
    assert canary["spec"]["replicas"] == 3
    assert "replicas" not in stable["spec"]  # the autoscaler's
    images = [d["spec"]["template"]["spec"]["containers"][0]["image"] for d in (stable, canary)]
    assert images == [f"catsdogs:{app_version()}", "catsdogs:3.0"]
    service = manifests["Service", "pets-catsdogs"]["spec"]["selector"]
    for deployment in (stable, canary):
        assert service.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    stable_selector, canary_selector = (
        deployment["spec"]["selector"]["matchLabels"] for deployment in (stable, canary)
    )
    assert stable_selector != canary_selector
    autoscaler = manifests["HorizontalPodAutoscaler", "pets-catsdogs"]["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == "pets-catsdogs"


@pytest.mark.parametrize(
    ("image", "canary", "expected"),
    [
        ({"tag": "1.5"}, {}, "catsdogs:1.5"),
        ({"digest": f"sha256:{'1' * 64}"}, {"tag": "3.0"}, "catsdogs:3.0"),
        ({"tag": "1.5"}, {"digest": f"sha256:{'2' * 64}"}, f"catsdogs@sha256:{'2' * 64}"),
    ],
)
def test_a_canary_is_named_by_tag_or_digest(
    image: dict[str, str], canary: dict[str, str], expected: str
) -> None:
    manifests = render({"image": image, "canary": {"enabled": True} | canary})
    pod = manifests["Deployment", "pets-catsdogs-canary"]["spec"]["template"]["spec"]
    assert {container["image"] for container in pod["containers"]} == {expected}


@pytest.mark.parametrize(
    ("values", "stable", "canary"),
    [
        ({}, app_version(), app_version()),
        ({"canary": {"tag": "3.0"}}, app_version(), "3.0"),
        ({"canary": {"digest": f"sha256:{'2' * 64}"}}, app_version(), "2" * 12),
        ({"image": {"tag": "1.5"}}, "1.5", "1.5"),
        ({"image": {"tag": f"_{'x' * 100}_"}, "canary": {"tag": "_2._"}}, "x" * 62, "2"),
    ],
)
def test_pods_carry_the_version_of_their_own_image(
    values: dict[str, dict[str, Any]], stable: str, canary: str
) -> None:
    manifests = render(values | {"canary": {"enabled": True} | values.get("canary", {})})
    for name, version in ("pets-catsdogs", stable), ("pets-catsdogs-canary", canary):
        deployment = manifests["Deployment", name]
        for meta in deployment["metadata"], deployment["spec"]["template"]["metadata"]:
            assert meta["labels"]["app.kubernetes.io/version"] == version
        assert "app.kubernetes.io/version" not in deployment["spec"]["selector"]["matchLabels"]


def test_why_a_container_ended_stands_in_its_pods_status() -> None:
    containers = [
        container
        for pod in pods(render(EVERYTHING))
        for container in [*pod.get("initContainers", []), *pod["containers"]]
    ]
    assert {container["name"] for container in containers} == {
        "archive", "gateway", "smoke", "torchserve"
    }  # fmt: skip
    policies = {container.get("terminationMessagePolicy") for container in containers}
    assert policies == {"FallbackToLogsOnError"}


def test_no_pod_of_a_test_outlives_the_release() -> None:
    """Helm doesn't delete hooks together with a release."""
    meta = render()["Pod", "pets-catsdogs-test"]["metadata"]
    policy = meta["annotations"]["helm.sh/hook-delete-policy"].split(",")
    assert {"before-hook-creation", "hook-succeeded", "hook-failed"} == set(policy)


def test_the_tests_pod_gets_in_where_others_do_not_and_is_none_of_the_services() -> None:
    guests = [{"namespaceSelector": {"matchLabels": {"team": "guests"}}}]
    manifests = render({"networkPolicy": {"from": guests}})
    labels = manifests["Pod", "pets-catsdogs-test"]["metadata"]["labels"]
    photos, metrics = manifests["NetworkPolicy", "pets-catsdogs"]["spec"]["ingress"]
    (ours,) = [peer for peer in photos["from"] if peer not in guests]
    assert ours["podSelector"]["matchLabels"].items() <= labels.items()
    assert guests[0] in photos["from"]
    assert "catsdogs/test-of" not in str(metrics)
    selector = manifests["Service", "pets-catsdogs"]["spec"]["selector"]
    assert not selector.keys() & labels.keys()


def test_the_label_of_the_chart_is_one_whatever_its_version(tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "chart")
    file = tmp_path / "chart/Chart.yaml"
    file.write_text(re.sub(r"(?m)^version: .*", "version: 2.0.0-rc.1+build.7", file.read_text()))
    for manifest in yaml.safe_load_all(run_helm("template", "pets", tmp_path / "chart")):
        assert manifest["metadata"]["labels"]["helm.sh/chart"] == "catsdogs-2.0.0-rc.1_build.7"


def test_the_chart_is_of_the_released_model() -> None:
    assert app_version() == VERSION


def test_the_dashboard_and_the_jobs_are_those_of_the_monitoring_folder() -> None:
    manifests = render(EVERYTHING)
    folder = REPOSITORY / "monitoring"
    configured = manifests["ConfigMap", "pets-catsdogs-dashboard"]["data"]["catsdogs.json"]
    assert configured.strip() == (folder / "dashboard.json").read_text().strip()
    jobs = set(re.findall(r"job_name: (\S+)", (folder / "prometheus.yml").read_text()))
    monitor = manifests["ServiceMonitor", "pets-catsdogs"]["spec"]
    assert {e["relabelings"][0]["replacement"] for e in monitor["endpoints"]} == jobs
    assert monitor["podTargetLabels"] == ["app.kubernetes.io/component"]


def test_notes_tell_commands_of_this_release() -> None:
    notes = run_helm("install", "y", CHART, "--dry-run=client", values=EVERYTHING)
    notes = notes.partition("NOTES:")[2]
    assert "helm test y --namespace default --logs" in notes
    assert "port-forward service/y-catsdogs 8000:80" in notes
    assert 'curl -T photo.jpg -H "X-API-Key: $KEY" http://127.0.0.1:8000/predict' in notes
    assert "https://photos.example.org/" in notes


def test_limits_leave_room_for_a_worker_and_requests_are_those_aimed_at() -> None:
    torchserve, gateway = (c["resources"] for c in serving_pod()["containers"])
    assert quantity(torchserve["limits"]["memory"]) > sizes.LEAST * 1e6
    requests = [part["requests"] for part in (torchserve, gateway)]
    assert 0.5 <= sum(quantity(part["cpu"]) for part in requests) <= 1
    assert 512 * 2**20 <= sum(quantity(part["memory"]) for part in requests) <= 2**30


def test_the_readme_tells_every_value() -> None:
    assert table() in (CHART / "README.md").read_text(), "run `make manifests`"
