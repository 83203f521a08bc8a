"""The effects of actions that later steps can observe."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from machine import HERE, TAG, Call, Machine, Refused, check, output, put_on_path


def checkout(call: Call, machine: Machine) -> None:
    workspace = os.environ["GITHUB_WORKSPACE"]
    shutil.copytree(HERE / "repository", workspace, symlinks=True, dirs_exist_ok=True)


def setup_python(call: Call, machine: Machine) -> None:
    inputs = call["inputs"]
    check(re.fullmatch(r"3\.\d+", inputs["python-version"]), "this stand-in knows 3.N alone")
    if manager := inputs.get("cache"):
        check(manager in ("pip", "pipenv", "poetry"), f"there is no cache {manager}")
        check(list(Path.cwd().glob(inputs["cache-dependency-path"])), "no file to cache by")
    machine.python = inputs["python-version"]
    put_on_path("python")


def upload_artifact(call: Call, machine: Machine) -> None:
    missing = call["inputs"]["if-no-files-found"]
    check(missing in ("warn", "error", "ignore"), f"if-no-files-found can't be {missing}")


def setup_helm(call: Call, machine: Machine) -> None:
    version = call["inputs"]["version"]
    check(re.fullmatch(r"v\d+\.\d+\.\d+", version), f"there is no helm {version}")
    put_on_path("helm")


def setup_buildx(call: Call, machine: Machine) -> None:
    machine.buildx = True


def login(call: Call, machine: Machine) -> None:
    inputs = call["inputs"]
    check(inputs.get("username") and inputs.get("password"), "username and password are required")
    machine.registry = inputs.get("registry") or "docker.io"


def build_and_push(call: Call, machine: Machine) -> None:
    inputs = call["inputs"]
    check(machine.buildx, "there is no buildx")
    check(Path(inputs["context"], inputs.get("file") or "Dockerfile").is_file(), "no Dockerfile")
    tags = inputs["tags"].split()
    for tag in tags:
        check(TAG.fullmatch(tag), f"{tag} is no tag of an image")
    if inputs["load"] == "true":
        machine.images += tags
    if inputs["push"] == "true":
        for tag in tags:
            check(tag.split("/")[0] == machine.registry, f"nobody logged in for {tag}")
        digest = "sha256:" + hashlib.sha256(" ".join(tags).encode()).hexdigest()
        call["pushed"] = {"tags": tags, "digest": digest}
        output("digest", digest)


def metadata(call: Call, machine: Machine) -> None:
    """Tags in the order of their types' priorities; the first is the image's version."""
    inputs = call["inputs"]
    check(inputs.get("flavor") == "latest=false", "this stand-in knows latest=false alone")
    tags: list[tuple[int, str]] = []
    for line in inputs["tags"].splitlines():
        wanted = dict(part.split("=", 1) for part in line.strip().split(","))
        enabled = wanted.pop("enable", "true")
        enabled = on_default_branch() if enabled == "{{is_default_branch}}" else enabled
        check(enabled in ("true", "false"), f"enable can't be {enabled}")
        if enabled == "true":
            tags += tag_of(wanted)
    names = [re.sub(r"[^\w.-]+", "-", name) for _, name in sorted(tags, key=lambda tag: -tag[0])]
    output(
        "tags", "\n".join(f"{image}:{name}" for image in inputs["images"].split() for name in names)
    )
    output("labels", f"org.opencontainers.image.version={names[0]}")


def on_default_branch() -> str:
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text())
    branch = event["repository"]["default_branch"]
    return str(os.environ["GITHUB_REF"] == f"refs/heads/{branch}").lower()


def tag_of(wanted: dict[str, str]) -> list[tuple[int, str]]:
    """With its priority; none if GITHUB_REF is not of this type."""
    reference = os.environ["GITHUB_REF"]
    branch = re.fullmatch(r"refs/heads/(.+)", reference)
    release = re.fullmatch(r"refs/tags/v?(\d+\.\d+\.\d+(?:-[\w.-]+)?)", reference)
    match sorted(wanted.items()):
        case [("type", "sha")]:
            return [(100, f"sha-{os.environ['GITHUB_SHA'][:7]}")]
        case [("type", "raw"), ("value", value)] if value and "{" not in value:
            return [(200, value)]
        case [("event", "branch"), ("type", "ref")]:
            return [(600, branch[1])] if branch else []
        case [("pattern", "{{version}}"), ("type", "semver")]:
            return [(900, release[1])] if release else []
    raise Refused(f"this stand-in doesn't know {wanted}")


def kind_cluster(call: Call, machine: Machine) -> None:
    machine.clusters.append(call["inputs"]["cluster_name"])
    put_on_path("kind")


def install_cosign(call: Call, machine: Machine) -> None:
    put_on_path("cosign")


ACTIONS: dict[str, Callable[[Call, Machine], None]] = {
    "actions/checkout": checkout,
    "actions/setup-python": setup_python,
    "actions/upload-artifact": upload_artifact,
    "azure/setup-helm": setup_helm,
    "docker/build-push-action": build_and_push,
    "docker/login-action": login,
    "docker/metadata-action": metadata,
    "docker/setup-buildx-action": setup_buildx,
    "helm/kind-action": kind_cluster,
    "sigstore/cosign-installer": install_cosign,
}
