"""The workflows, run by act on this machine, with stand-ins for everything outside.

Steps have a PATH, a home and a copy of the repository of their own. The kernel keeps them from
writing anywhere else and from opening TCP connections.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.repository import REPOSITORY
from tests.chart import helm
from tests.workflows import confined

HERE = Path(__file__).parent
WORKFLOWS = REPOSITORY / ".github/workflows"
ACTIONS: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "actions.yaml").read_text())
ACT = Path(sys.executable).with_name("act")
TOOLS = [
    "awk", "bash", "basename", "cat", "chmod", "cp", "cut", "date", "diff", "dirname", "echo",
    "env", "expr", "false", "find", "grep", "head", "ln", "ls", "mkdir", "mktemp", "mv", "printf",
    "pwd", "rm", "sed", "seq", "sh", "sleep", "sort", "tail", "tee", "test", "touch", "tr", "true",
    "uname", "uniq", "wc", "xargs",
]  # fmt: skip
# Others come with their actions, or are missing on GitHub's machines.
PREINSTALLED = ("apt-get", "docker", "dpkg", "kubectl", "make", "node", "sudo")
INSTALLED = ("cosign", "helm", "kind")
SHA = "0123456789abcdef0123456789abcdef01234567"
SECRETS = {
    "DOCKERHUB_USERNAME": "somebody", "DOCKERHUB_TOKEN": "its token", "KUBECONFIG": "its text",
}  # fmt: skip

able = ACT.exists() and helm.path() and confined.version() >= 4
# If CATSDOGS_REQUIRE forbids skipping, a machine without Landlock must be disposable.
needs_act = pytest.mark.skipif(
    not able and not os.environ.get("CATSDOGS_REQUIRE"),
    reason="needs act and helm for this platform, and Linux 6.7 with Landlock",
)


def workflow(name: str) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load((WORKFLOWS / name).read_text())
    loaded["on"] = loaded.pop(True)  # as YAML 1.1 reads it
    return loaded


@dataclass
class Run:
    """Results of the jobs, in the order in which they ended, and the calls of stand-ins."""

    results: dict[str, str]
    calls: list[dict[str, Any]]
    log: str

    def named(self, name: str, job: str = "") -> list[dict[str, Any]]:
        """Successful calls of a command or an action."""
        return [
            call for call in self.calls
            if call["name"] == name and job in ("", call["job"]) and "refused" not in call
        ]  # fmt: skip


def event(reference: str) -> dict[str, Any]:
    """Of a push, or a pull request."""
    common = {"repository": {"default_branch": "main"}}
    if reference.startswith("refs/pull/"):
        return common | {
            "number": int(reference.split("/")[2]),
            "pull_request": {"base": {"ref": "main"}, "head": {"ref": "better"}},
        }
    return common | {"ref": reference, "after": SHA, "deleted": False}


def started_by(reference: str) -> list[str]:
    """The workflows that GitHub starts; act looks at no branches and tags."""
    return [
        path.name for path in sorted(WORKFLOWS.iterdir()) if starts(workflow(path.name), reference)
    ]


def starts(loaded: dict[Any, Any], reference: str) -> bool:
    _, kind, name = reference.split("/", 2)
    if kind == "pull":
        return "pull_request" in loaded["on"]
    wanted = loaded["on"].get("push", {"branches": []})
    kind = {"heads": "branches", "tags": "tags"}[kind]
    if f"{kind}-ignore" in wanted:
        return not any(fnmatchcase(name, pattern) for pattern in wanted[f"{kind}-ignore"])
    return any(fnmatchcase(name, pattern) for pattern in wanted.get(kind, []))


def run_workflow(
    name: str,
    reference: str,
    folder: Path,
    fails: str = "",
    variables: dict[str, str] | None = None,
) -> Run:
    """Run all jobs. Calls of stand-ins that match `fails` fail."""
    stand_ins = prepare(folder, fails)
    kind = "pull_request" if reference.startswith("refs/pull/") else "push"
    (folder / "event.json").write_text(json.dumps(event(reference)))
    command: list[str | Path] = [
        ACT, kind, "--workflows", f".github/workflows/{name}", "--eventpath", folder / "event.json",
        "--platform", "ubuntu-24.04=-self-hosted", "--json", "--no-skip-checkout",
        "--action-offline-mode", "--action-cache-path", folder / "cache",
        "--no-cache-server", "--container-daemon-socket", "-",
    ]  # fmt: skip
    for action, known in ACTIONS.items():
        replaced = f"{action}@{known['commit']}={folder / 'actions' / action}"
        command += ["--local-repository", replaced]
    # GitHub gives none to pull requests from forks.
    for key, value in (SECRETS if kind == "push" else {}).items():
        command += ["--secret", f"{key}={value}"]
    for key, value in (variables or {}).items():
        command += ["--var", f"{key}={value}"]
    log = run_confined(command, folder)
    file = stand_ins / "calls.jsonl"
    calls = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return read_log(log, calls)


def prepare(folder: Path, fails: str) -> Path:
    """The repository's copy, actions and commands. Returns the folder of the stand-ins."""
    (folder / "home").mkdir()
    stand_ins = shutil.copytree(HERE / "stand_ins", folder / "stand_ins")
    settings = {"make": shutil.which("make"), "helm": helm.path(), "fails": fails}
    (stand_ins / "settings.json").write_text(json.dumps(settings))
    copy_repository(stand_ins / "repository")
    for action, known in ACTIONS.items():
        (folder / "actions" / action).mkdir(parents=True)
        # JSON is YAML, too.
        (folder / "actions" / action / "action.yml").write_text(json.dumps(metadata(action, known)))
        (folder / "actions" / action / "index.js").touch()
    (folder / "bin").mkdir()
    for tool in filter(shutil.which, TOOLS):
        (folder / "bin" / tool).symlink_to(str(shutil.which(tool)))
    # One Python for all versions; the first exists before actions/setup-python.
    for path in (folder / "bin/python3", stand_ins / "installed/python/python"):
        write_command(path, sys._base_executable)  # type: ignore[attr-defined]
    python = (sys.executable, "-S", "-E", stand_ins)
    for command in PREINSTALLED:
        write_command(folder / "bin" / command, *python, command)
    for command in INSTALLED:
        write_command(stand_ins / "installed" / command / command, *python, command)
    return stand_ins


def copy_repository(folder: Path) -> None:
    """A copy of the working tree, to test changes; without the weights, which no step reads."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (REPOSITORY / name).exists() and not name.endswith(".pt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name, follow_symlinks=False)


def metadata(action: str, known: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        name: {"required": name in known.get("required", ())}
        | ({"default": value} if value else {})
        for name, value in known["inputs"].items()
    }
    return {
        "name": action,
        "inputs": inputs,
        "outputs": {name: {"description": name} for name in known["outputs"]},
        "runs": {"using": "node20", "main": "index.js"},
    }


def write_command(path: Path, *command: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    words = shlex.join(str(word) for word in command)
    # Other shells drop variables with a hyphen in their name, such as inputs.
    path.write_text(f'#!{shutil.which("bash")}\nexec {words} "$@"\n')
    path.chmod(0o755)


def run_confined(command: list[str | Path], folder: Path) -> str:
    """The output of a command in the folder's environment."""
    if confined.version() >= 4:
        command = [sys.executable, HERE / "confined.py", folder, *command]
    environment = {"HOME": str(folder / "home"), "PATH": str(folder / "bin"), "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        command,
        cwd=folder / "stand_ins/repository",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        return process.communicate(timeout=300)[0]
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its steps, too
        raise AssertionError(process.communicate()[0]) from None


def read_log(log: str, calls: list[dict[str, Any]]) -> Run:
    """A job fails if one job of its matrix does."""
    results: dict[str, str] = {}
    messages = []
    for text in log.splitlines():
        line = json.loads(text) if text.startswith("{") else {"msg": text, "raw_output": True}
        name = line.get("jobID", "act")
        if "jobResult" in line:
            before = results.pop(name, "success")
            results[name] = line["jobResult"] if before == "success" else before
        if line.keys() & {"raw_output", "stepResult", "jobResult"}:
            messages.append(f"{line.get('job', name)}: {line['msg'].rstrip()}")
    return Run(results, calls, "\n".join(messages))
