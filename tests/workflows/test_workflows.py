"""The behaviour of the workflows; `make lint` checks their form."""

from __future__ import annotations

import functools
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.repository import REPOSITORY
from tests.chart.conftest import app_version
from tests.workflows import confined
from tests.workflows.conftest import (
    ACTIONS,
    SECRETS,
    SHA,
    WORKFLOWS,
    Run,
    needs_act,
    run_workflow,
    started_by,
    workflow,
)

CHECKS = list(workflow("ci.yml")["jobs"])
PYTHONS = workflow("ci.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]
IMAGE = "docker.io/somebody/catsdogs"
# The permissions that steps need of their job's token; other steps need none.
NEEDED = {"actions/checkout": {"contents": "read"}, "cosign sign": {"id-token": "write"}}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    return functools.partial(run_workflow, folder=tmp_path)


def jobs_with_steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of both workflows."""
    for path in sorted(WORKFLOWS.iterdir()):
        for name, job in workflow(path.name)["jobs"].items():
            if "steps" in job:
                yield name, job


def test_each_push_and_pull_request_starts_the_checks_once() -> None:
    assert started_by("refs/pull/7/merge") == ["ci.yml"]
    assert started_by("refs/heads/better") == ["ci.yml"]
    assert started_by("refs/heads/main") == ["release.yml"]
    assert started_by("refs/tags/v1.1") == ["release.yml"]
    assert started_by("refs/tags/draft") == []


def test_no_job_of_a_release_runs_after_one_that_failed() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert jobs["check"]["uses"] == "./.github/workflows/ci.yml"
    assert (jobs["push"]["needs"], jobs["deploy"]["needs"]) == ("check", "push")
    # act ends after a failed called workflow. GitHub evaluates later jobs.
    for job in jobs.values():
        assert not re.search(r"always|cancelled|failure", job.get("if", ""))


def test_the_checks_skip_no_test_and_have_no_secret() -> None:
    assert workflow("ci.yml")["env"]["CATSDOGS_REQUIRE"] == "all"
    assert "secrets." not in (WORKFLOWS / "ci.yml").read_text()
    assert "secrets" not in workflow("release.yml")["jobs"]["check"]


def test_every_python_that_make_takes_is_tested_and_named_by_readme() -> None:
    taken = re.findall(r"python(3\.\d+) ", (REPOSITORY / "Makefile").read_text())
    assert sorted(taken) == PYTHONS
    named = f"{', '.join(PYTHONS[:-1])} or {PYTHONS[-1]}"
    assert named in (REPOSITORY / "README.md").read_text()


def test_each_job_has_the_permissions_that_its_steps_need_and_no_other() -> None:
    for path in WORKFLOWS.iterdir():
        assert workflow(path.name)["permissions"] == {}
    for name, job in jobs_with_steps():
        steps = " ".join(step.get("uses", step.get("run")) for step in job["steps"])
        needed = [permissions for what, permissions in NEEDED.items() if what in steps]
        assert job["permissions"] == functools.reduce(dict.__or__, needed), name


def test_the_called_checks_ask_for_no_more_than_their_caller_has() -> None:
    caller = workflow("release.yml")["jobs"]["check"]["permissions"]
    for job in workflow("ci.yml")["jobs"].values():
        assert job["permissions"].items() <= caller.items()


def test_the_cluster_is_reached_by_the_job_alone_that_waits_for_an_approval() -> None:
    for name, job in jobs_with_steps():
        assert ("secrets.KUBECONFIG" in str(job)) == (job.get("environment") == "production"), name


def test_the_stand_ins_are_of_the_pinned_actions() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS.iterdir())
    pinned = set(re.findall(r"uses: ([\w/-]+)@(\w+) # (v[\d.]+)", text))
    assert pinned == {(name, known["commit"], known["version"]) for name, known in ACTIONS.items()}


@pytest.mark.skipif(confined.version() < 4, reason="needs Landlock, of Linux 6.7")
def test_a_confined_command_writes_no_other_file_and_reaches_no_server(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.touch()
    bash = [sys.executable, confined.__file__, inside, shutil.which("bash"), "-c"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = f"/dev/tcp/127.0.0.1/{server.getsockname()[1]}"
        for attempt, status in {
            f"touch {inside}/new && rm {inside}/new && echo > /dev/null": 0,
            f"echo > {outside}": 1,
            f"rm {outside}": 1,
            f"echo > {connection}": 1,
        }.items():
            done = subprocess.run([*bash, attempt], capture_output=True, text=True, check=False)
            assert done.returncode == status, attempt
            assert status == 0 or "Permission denied" in done.stderr, attempt


@needs_act
@pytest.mark.slow
def test_a_pull_request_is_checked_and_nothing_else(run: Callable[..., Run]) -> None:
    ran = run("ci.yml", "refs/pull/7/merge")
    assert ran.results == dict.fromkeys(CHECKS, "success"), ran.log
    assert published(ran) == []
    for target in ("lint", "test"):
        calls = [call for call in ran.named("make", "check") if target in call["arguments"]]
        assert sorted(call["python"] for call in calls) == PYTHONS
        assert {call["environment"]["CATSDOGS_REQUIRE"] for call in calls} == {"all"}
    tried = [word for call in ran.named("make", "image") for word in call["arguments"]]
    assert {"policy", "image-test", "chart-test"} <= set(tried)
    assert needs_no_registry(ran)


def published(ran: Run) -> list[str]:
    """Commands and actions with effects outside."""
    pushed = [call for call in ran.calls if "pushed" in call or call["arguments"][:1] == ["push"]]
    installed = [call for call in ran.named("helm", "deploy") if "images" in call]
    return [call["name"] for call in pushed + ran.named("cosign") + installed]


def needs_no_registry(ran: Run) -> bool:
    """Whether the kind cluster has all images of the installed chart."""
    loaded = [image for call in ran.named("kind") for image in call.get("loaded", [])]
    installed = [image for call in ran.named("helm", "image") for image in call.get("images", [])]
    return {f"catsdogs:{app_version()}", *installed} <= set(loaded)


@needs_act
@pytest.mark.slow
def test_main_is_checked_pushed_signed_and_deployed_by_its_digest(run: Callable[..., Run]) -> None:
    ran = run("release.yml", "refs/heads/main")
    assert ran.results == dict.fromkeys([*CHECKS, "push", "deploy"], "success"), ran.log
    assert list(ran.results)[-2:] == ["push", "deploy"]
    pushed = the_push(ran)
    assert pushed["tags"] == [f"{IMAGE}:{tag}" for tag in ("main", "latest", f"sha-{SHA[:7]}")]
    assert signed(ran) == [f"{IMAGE}@{pushed['digest']}"]
    assert deployed(ran)["images"] == [f"{IMAGE}:{app_version()}@{pushed['digest']}"]
    assert needs_no_registry(ran)


def the_push(ran: Run) -> dict[str, Any]:
    """Its tags and digest."""
    (push,) = [call for call in ran.calls if "pushed" in call]
    assert push["job"] == "push"
    wanted = {"sbom": "true", "provenance": "mode=max", "no-cache": "true"}
    assert wanted.items() <= push["inputs"].items()
    image: dict[str, Any] = push["pushed"]
    return image


def signed(ran: Run) -> list[str]:
    return [call["signed"] for call in ran.named("cosign")]


def deployed(ran: Run) -> dict[str, Any]:
    """The call of helm; all calls have the cluster's secret, but not in their arguments."""
    calls = ran.named("helm", "deploy") + ran.named("kubectl", "deploy")
    assert {call["kubeconfig"] for call in calls} == {SECRETS["KUBECONFIG"]}
    arguments = str([call["arguments"] for call in ran.calls])
    assert not [name for name in ("DOCKERHUB_TOKEN", "KUBECONFIG") if SECRETS[name] in arguments]
    (installed,) = [call for call in calls if "images" in call]
    return installed


@needs_act
@pytest.mark.slow
def test_a_tag_pushes_the_image_that_the_chart_takes_and_deploys_nothing(
    run: Callable[..., Run],
) -> None:
    ran = run("release.yml", f"refs/tags/v{app_version()}")
    assert ran.results == dict.fromkeys([*CHECKS, "push"], "success"), ran.log
    pushed = the_push(ran)
    assert pushed["tags"] == [f"{IMAGE}:{app_version()}", f"{IMAGE}:sha-{SHA[:7]}"]
    assert signed(ran) == [f"{IMAGE}@{pushed['digest']}"]
    assert published(ran) == ["docker/build-push-action", "cosign"]


@needs_act
@pytest.mark.slow
def test_registry_image_and_values_are_the_repositorys_to_choose(run: Callable[..., Run]) -> None:
    values = ["--namespace photos", "--set service.port=8080"]
    variables = {"REGISTRY": "registry.example.org", "IMAGE": "pets/model"}
    ran = run("release.yml", "refs/heads/main", variables=variables | {"VALUES": " ".join(values)})
    assert ran.results["deploy"] == "success", ran.log
    image, digest = "registry.example.org/pets/model", the_push(ran)["digest"]
    assert signed(ran) == [f"{image}@{digest}"]
    assert deployed(ran)["images"] == [f"{image}:{app_version()}@{digest}"]
    assert all(option in " ".join(deployed(ran)["arguments"]) for option in values)


@needs_act
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "failed", "missing", "left"),
    [
        ("check 3.13 make test", "check", ["push", "deploy"], []),
        ("image .* make image-test", "image", ["push", "deploy"], []),
        ("push .*build-push-action", "push", ["deploy"], []),
        ("push .*cosign sign", "push", ["deploy"], ["docker/build-push-action"]),
        ("deploy .*helm upgrade", "deploy", [], ["docker/build-push-action", "cosign"]),
    ],
    ids=["a test on one Python", "the image", "the push", "the signature", "the deployment"],
)
def test_nothing_is_pushed_or_deployed_after_a_failure_of(
    run: Callable[..., Run], fails: str, failed: str, missing: list[str], left: list[str]
) -> None:
    ran = run("release.yml", "refs/heads/main", fails=fails)
    results = dict.fromkeys([*CHECKS, "push", "deploy"], "success") | {failed: "failure"}
    assert ran.results == {name: results[name] for name in results.keys() - missing}, ran.log
    assert "the test has it fail" in ran.log
    assert published(ran) == left
