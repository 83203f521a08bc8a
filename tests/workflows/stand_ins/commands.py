"""The effects of commands that later steps can observe."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from machine import SETTINGS, TAG, Call, Machine, calls, check

# make's targets, which only call stand-ins.
RUN_FOR_REAL = ({"version"}, {"deploy"})


def make(call: Call, machine: Machine) -> None:
    """Check that these targets exist, and see what they would run."""
    targets = {word for word in call["arguments"] if "=" not in word and word[0] != "-"}
    dry = [] if targets in RUN_FOR_REAL else ["--dry-run"]
    command = [SETTINGS["make"], *dry, *call["arguments"]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    check(done.returncode == 0, f"it ends with {done.returncode}")
    nginx = os.environ.get("CATSDOGS_DEBIAN_NGINX")
    check(nginx is None or Path(nginx).is_file(), f"there is no {nginx}")
    if not dry:
        print(done.stdout, end="")


def helm(call: Call, machine: Machine) -> None:
    """Render the manifests, with `helm install`, which accepts the options of upgrade."""
    kubectl(call, machine)
    words = call["arguments"]
    if "upgrade" not in words and "install" not in words:
        return
    options = [word for word in words if word not in ("upgrade", "install", "--install")]
    command = [SETTINGS["helm"], "install", *options, "--dry-run=client"]
    clusterless = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    done = subprocess.run(command, capture_output=True, text=True, env=clusterless)
    check(done.returncode == 0, done.stderr)
    images = re.findall(r'^[- ]*image: "?([^"\s]+)', done.stdout, re.MULTILINE)
    call["images"] = sorted(set(images))


def kubectl(call: Call, machine: Machine) -> None:
    kubeconfig = os.environ.get("KUBECONFIG")
    if kubeconfig:
        check(Path(kubeconfig).stat().st_mode & 0o077 == 0, f"others can read {kubeconfig}")
        call["kubeconfig"] = Path(kubeconfig).read_text()
    check(kubeconfig or machine.clusters, "no cluster can be reached")


def docker(call: Call, machine: Machine) -> None:
    if call["arguments"][0] == "tag":
        _, source, target = call["arguments"]
        check(source in machine.images, f"there is no image {source}")
        check(TAG.fullmatch(target), f"{target} is no tag of an image")
        machine.images.append(target)


def kind(call: Call, machine: Machine) -> None:
    match call["arguments"]:
        case ["load", "docker-image", "--name", cluster, *images]:
            check(cluster in machine.clusters, f"there is no cluster {cluster}")
            check(set(images) <= set(machine.images), f"one of {images} isn't there")
            call["loaded"] = images


def cosign(call: Call, machine: Machine) -> None:
    command, option, reference = call["arguments"]
    check((command, option) == ("sign", "--yes"), "it would ask, and nobody answers")
    image, digest = reference.split("@")
    check(image.split("/")[0] == machine.registry, f"nobody logged in for {image}")
    pushed = [each["pushed"] for each in calls() if "pushed" in each]
    check(digest in [push["digest"] for push in pushed], f"{reference} isn't in the registry")
    call["signed"] = reference


def sudo(call: Call, machine: Machine) -> None:
    check(subprocess.run(call["arguments"]).returncode == 0, "the command failed")


def apt_get(call: Call, machine: Machine) -> None:
    if call["arguments"][0] == "download":
        Path(f"{call['arguments'][-1]}_1.0_amd64.deb").touch()


def dpkg(call: Call, machine: Machine) -> None:
    option, package, folder = call["arguments"]
    check(option == "-x" and Path(package).is_file(), f"can't unpack {package}")
    program = Path(folder, "usr/sbin", package.split("_")[0])
    program.parent.mkdir(parents=True)
    program.touch()


COMMANDS: dict[str, Callable[[Call, Machine], None]] = {
    "apt-get": apt_get,
    "cosign": cosign,
    "docker": docker,
    "dpkg": dpkg,
    "helm": helm,
    "kind": kind,
    "kubectl": kubectl,
    "make": make,
    "sudo": sudo,
}
