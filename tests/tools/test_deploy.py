"""tools/deploy with a helm and a kubectl that record command lines and give prepared answers.

The kind job of ci.yml runs it with the real ones, in a cluster.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testing.repository import REPOSITORY
from testing.servers import wait_until
from tests.chart import helm
from tests.chart.conftest import needs_helm
from tests.tools import program

RECORDER = f"""#!{sys.executable}
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
line = " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])
with (folder / "asked").open("a+") as asked:
    asked.seek(0)
    earlier = asked.read().splitlines()
    print(line, file=asked)
for begin, answers in json.loads((folder / "answers.json").read_text()).items():
    if line.startswith(begin):
        count = sum(other.startswith(begin) for other in earlier)
        code, output = answers[min(count, len(answers) - 1)]
        print(output)
        sys.exit(code)
"""
POD = {
    "kind": "Pod",
    "metadata": {"name": "pets-catsdogs-7d-x2"},
    "status": {
        "initContainerStatuses": [
            {
                "name": "archive",
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                "lastState": {
                    "terminated": {
                        "exitCode": 1, "reason": "Error", "message": "error: its sha256 is 12\n"
                    }
                },
            }
        ],
        "containerStatuses": [
            {"name": name, "state": {"waiting": {"reason": "PodInitializing"}}, "lastState": {}}
            for name in ("torchserve", "gateway")
        ],
    },
}  # fmt: skip
DEPLOYMENT = {"kind": "Deployment", "metadata": {"name": "pets-catsdogs"}}


def event(name: str, message: str, when: str) -> dict[str, Any]:
    about = {"kind": "Pod", "name": name}
    return {"involvedObject": about, "reason": "BackOff", "message": message, "lastTimestamp": when}


EVENTS = [
    event("pets-catsdogs-7d-x2", "newest", "2026-11-27T10:00:02Z"),
    event("pets-catsdogs", "oldest", "2026-11-27T10:00:01Z"),
    event("pets-catsdogsmore-1", "of another release", "2026-11-27T10:00:03Z"),
]


class Deploy:
    """The program in a folder where helm and kubectl are recorders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("helm", "kubectl"):
            (folder / name).write_text(RECORDER)
            (folder / name).chmod(0o755)
        # Of commands that begin so: exit code and output of the first, the second and so on.
        self.answers: dict[str, list[tuple[int, str]]] = {
            "kubectl get deployments,pods": [(0, json.dumps({"items": [DEPLOYMENT, POD]}))],
            "kubectl get events": [(0, json.dumps({"items": EVENTS}))],
        }

    def __call__(self, *options: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "answers.json").write_text(json.dumps(self.answers))
        (self.folder / "asked").unlink(missing_ok=True)
        return subprocess.run(
            [sys.executable, REPOSITORY / "tools/deploy", "pets", *options],
            env=os.environ | {"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def asked(self, kind: str = "") -> list[str]:
        lines = (self.folder / "asked").read_text().splitlines()
        return [line for line in lines if line.startswith(kind)]


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    return Deploy(tmp_path)


def history(*statuses: str) -> tuple[int, str]:
    """What `helm history` answers for revisions 1, 2 and so on."""
    revisions = [{"revision": n, "status": status} for n, status in enumerate(statuses, start=1)]
    return (0, json.dumps(revisions)) if revisions else (1, "Error: release: not found")


def test_a_release_that_comes_up_is_tested_and_left_alone(deploy: Deploy) -> None:
    deploy.answers["helm history"] = [history()]
    done = deploy("--namespace", "photos", "--set", "image.tag=3.0", "--set", "a=b")
    assert done.returncode == 0, done.stderr
    chart = REPOSITORY / "helm/catsdogs"
    assert deploy.asked() == [
        "helm history pets --namespace photos --output json",
        f"helm upgrade --install pets {chart} --wait --timeout 10m --server-side=true "
        "--force-conflicts --set image.tag=3.0 --set a=b --namespace photos",
        "kubectl rollout status deployment --selector app.kubernetes.io/instance=pets --timeout 5m"
        " --namespace photos",
        "helm test pets --logs --namespace photos",
    ]


def test_the_cause_is_printed_before_the_pods_are_gone(deploy: Deploy) -> None:
    deploy.answers["helm upgrade"] = [(1, "")]
    deploy.answers["helm history"] = [
        history("superseded", "deployed"), history("superseded", "deployed", "failed")
    ]  # fmt: skip
    deploy.answers["helm rollback"] = [(0, "ROLLED BACK")]
    done = deploy("--timeout", "90s")
    assert done.returncode == 1
    assert deploy.asked("helm")[-1] == (
        "helm rollback pets 2 --wait --timeout 90s --server-side=true --force-conflicts"
    )
    printed, _, after = done.stdout.partition("ROLLED BACK")
    assert after.strip() == ""
    assert printed.splitlines()[-6:-1] == [
        "2026-11-27T10:00:01Z Pod pets-catsdogs: BackOff: oldest",
        "2026-11-27T10:00:02Z Pod pets-catsdogs-7d-x2: BackOff: newest",
        "pets-catsdogs-7d-x2, container archive: CrashLoopBackOff: back-off 10s",
        "pets-catsdogs-7d-x2, container archive: Error, exit code 1: error: its sha256 is 12",
        "",
    ]
    assert "of another release" not in printed


def test_an_event_about_nothing_does_not_keep_it_from_going_back(deploy: Deploy) -> None:
    deploy.answers["helm upgrade"] = [(1, "")]
    deploy.answers["helm history"] = [history("deployed"), history("deployed", "failed")]
    nameless = event("pets-catsdogs", "", "") | {"involvedObject": {"kind": "Pod"}}
    deploy.answers["kubectl get events"] = [(0, json.dumps({"items": [nameless, *EVENTS]}))]
    assert "Pod pets-catsdogs: BackOff: oldest" in deploy().stdout
    assert deploy.asked("helm")[-1].startswith("helm rollback pets 1")


def test_a_missing_program_is_named_before_anything_is_asked(deploy: Deploy) -> None:
    (deploy.folder / "kubectl").unlink()
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools/deploy", "pets"], env={"PATH": str(deploy.folder)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: kubectl is missing; install it\n")
    assert not (deploy.folder / "asked").exists()


def test_ctrl_c_lets_helm_note_the_failure_and_goes_back(deploy: Deploy) -> None:
    deploy.answers["helm history"] = [history("deployed"), history("deployed", "failed")]
    upgrade = "import signal, sys, time\nopen('upgrading', 'w')\ntry: time.sleep(60)\n"
    upgrade += "except KeyboardInterrupt: time.sleep(2); open('noted', 'w'); sys.exit(1)\n"
    helm = (deploy.folder / "helm").read_text()
    head, _, rest = helm.partition("\n")
    (deploy.folder / "helm").write_text(
        f"{head}\nimport sys\nif sys.argv[1] == 'upgrade': exec({upgrade!r})\n{rest}"
    )
    (deploy.folder / "answers.json").write_text(json.dumps(deploy.answers))
    with subprocess.Popen(
        [sys.executable, REPOSITORY / "tools/deploy", "pets"], cwd=deploy.folder,
        env=os.environ | {"PATH": f"{deploy.folder}{os.pathsep}{os.environ['PATH']}"},
        start_new_session=True, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        wait_until((deploy.folder / "upgrading").exists, 30)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    assert (deploy.folder / "noted").exists()
    assert deploy.asked("helm")[-1].startswith("helm rollback pets 1")


def test_a_first_install_that_fails_is_uninstalled(deploy: Deploy) -> None:
    deploy.answers["helm upgrade"] = [(1, "")]
    deploy.answers["helm history"] = [history(), history("failed")]
    assert deploy().returncode == 1
    assert deploy.asked("helm")[-1] == "helm uninstall pets --wait --timeout 10m"


@pytest.mark.parametrize(
    "after",
    [
        history("deployed"),  # values that the chart refuses
        history("failed", "deployed"),
        history("deployed", "pending-upgrade"),  # somebody else's
        history(),  # no cluster
    ],
)
def test_nothing_is_rolled_back_where_nothing_was_changed(
    deploy: Deploy, after: tuple[int, str]
) -> None:
    deploy.answers["helm upgrade"] = [(1, "")]
    deploy.answers["helm history"] = [after]
    deploy.answers["kubectl"] = [(1, "")]
    assert deploy().returncode == 1
    assert not [line for line in deploy.asked() if "rollback" in line or "uninstall" in line]


def test_a_release_that_fails_its_test_stays_for_a_look(deploy: Deploy) -> None:
    deploy.answers["helm history"] = [history("deployed")]
    deploy.answers["helm test"] = [(1, "")]
    done = deploy()
    assert done.returncode == 1
    assert "container archive: Error, exit code 1" in done.stdout
    assert deploy.asked("helm")[-1] == "helm test pets --logs"


@needs_helm
def test_helm_knows_every_option(deploy: Deploy) -> None:
    deploy.answers["helm upgrade"] = [(1, ""), (0, "")]
    deploy.answers["helm history"] = [
        history(), history("failed"), history("deployed"), history("deployed", "failed")
    ]  # fmt: skip
    deploy()
    asked = deploy.asked("helm")
    deploy.answers["helm history"] = [history("deployed"), history("deployed", "failed")]
    deploy()
    asked += deploy.asked("helm")
    deploy.answers["helm upgrade"] = [(0, "")]
    deploy()
    asked += deploy.asked("helm")
    assert {line.split()[1] for line in asked} == {
        "history", "rollback", "test", "uninstall", "upgrade"
    }  # fmt: skip
    for line in asked:
        _, command, *words = line.split()
        explained = subprocess.run(
            [helm.path() or "helm", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in words:
            if option.startswith("--"):
                name = option.partition("=")[0]
                assert re.search(rf"\s{name}\s", explained), (command, option)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("10m", 600), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("300ms", 0), ("nonsense", 0)],
)
def test_a_step_may_take_as_long_as_helm_is_told(duration: str, seconds: float) -> None:
    assert program.load("deploy").seconds(duration) == seconds
