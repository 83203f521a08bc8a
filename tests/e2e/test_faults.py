from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from testing import abuse
from testing.corrupt import CORRUPTIONS, corrupt, spoil_loaded_model
from testing.load import CAT, REFUSED, Load, is_whole
from testing.repository import REPOSITORY
from testing.servers import Server, fill, small_disk, wait_until
from tools.server.management import Refused

BATCH = yaml.safe_load((REPOSITORY / "handler/model-config.yaml").read_text())["batchSize"]
SECONDS_TO_RECOVER = 90  # it takes 5 if nothing else runs


def wait_until_whole(server: Server) -> None:
    wait_until(lambda: is_whole(server), SECONDS_TO_RECOVER)


def failures(load: Load) -> Counter[int]:
    """Failed requests by status, after checking that each was JSON and in time."""
    for answer in load.failed():
        assert answer.is_json, answer
        assert answer.is_fair(), answer
    return Counter(answer.status for answer in load.failed())


@pytest.fixture
def launcher(own_server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Of `own_server`, as a supervisor runs it."""
    with (own_server.folder / "stderr").open("w") as stderr:
        launcher = subprocess.Popen(
            [sys.executable, REPOSITORY / "tools/serve"],
            cwd=own_server.folder, env=own_server.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=stderr,
        )  # fmt: skip
    wait_until(own_server.processes, SECONDS_TO_RECOVER)  # it writes its pid once it is ready
    yield launcher
    launcher.terminate()
    launcher.wait(90)


def test_a_killed_worker_costs_only_its_batch(server: Server) -> None:
    with Load(server) as load:
        load.wait_for(20)
        server.workers()[0].kill()
        load.wait_for(20, since=time.monotonic())
        wait_until_whole(server)
    failed = failures(load)
    assert set(failed) <= {503, 504}
    assert failed.total() <= BATCH


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can mount")
def test_with_a_full_temporary_folder_photos_and_questions_are_answered(
    own_server: Server,
) -> None:
    folder = Path(own_server.environment["TMPDIR"])
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder, 300))
        except subprocess.CalledProcessError:
            pytest.skip("this root can't mount")
        own_server.start()
        stack.callback(own_server.stop)
        fill(folder)
        for _ in range(3):
            time.sleep(1.1)  # the answers of the last second are kept
            for path in ("ready", "health", "model/info"):
                answer = requests.get(f"{own_server.address('gateway')}/{path}", timeout=30)
                assert answer.status_code == 200, path
                answer.json()
        assert requests.put(own_server.predictions, data=CAT, timeout=30).status_code == 200
        metrics = f"{own_server.address('gateway_metrics')}/metrics"
        assert "prediction_requests_total" in requests.get(metrics, timeout=30).text
        own_server.workers()[0].kill()
        wait_until_whole(own_server)


@pytest.mark.slow
def test_photos_wait_while_all_workers_start_again(server: Server) -> None:
    with Load(server) as load:
        load.wait_for(20)
        for worker in server.workers():
            worker.kill()
        killed = time.monotonic()
        wait_until_whole(server)
        load.wait_for(20, since=killed)
    failed = failures(load)
    assert set(failed) <= {503, 504}  # 504 if a start takes longer than 20 s
    assert failed[503] <= 2 * BATCH


@pytest.mark.slow
def test_nobody_fails_when_a_worker_is_stopped_for_a_moment(server: Server) -> None:
    with Load(server) as load:
        load.wait_for(20)
        worker = server.workers()[0]
        worker.suspend()
        load.wait_for(20, since=time.monotonic())
        worker.resume()
        load.wait_for(20, since=time.monotonic())
    assert not failures(load)


@pytest.mark.slow
def test_a_frozen_worker_costs_its_batch_a_504_and_is_replaced(server: Server) -> None:
    with Load(server) as load:
        load.wait_for(20)
        worker = server.workers()[0]
        worker.suspend()
        worker.wait(SECONDS_TO_RECOVER)
        wait_until_whole(server)
        load.wait_for(20, since=time.monotonic())
    failed = failures(load)
    assert set(failed) <= {504}
    assert failed.total() <= BATCH


def test_sigterm_loses_no_request_that_the_door_has_accepted(
    own_server: Server, launcher: subprocess.Popen[bytes]
) -> None:
    processes = own_server.processes()
    with Load(own_server) as load:
        load.wait_for(20)
        launcher.terminate()
        assert launcher.wait(60) == 0
    taken = {
        line["request_id"]: line["status"]
        for line in own_server.lines("gateway.log")
        if line["path"] == "/predict"
    }
    assert taken == {str(answer.number): 200 for answer in load.answers if answer.status}
    assert {answer.error for answer in load.failed()} <= set(REFUSED)
    assert not any(process.is_running() for process in processes)
    assert list(Path(own_server.environment["TMPDIR"]).iterdir()) == []


@pytest.mark.slow
def test_after_a_kill_the_next_start_deletes_what_was_unpacked(own_server: Server) -> None:
    temporary = Path(own_server.environment["TMPDIR"])
    own_server.start()
    before, processes = set(temporary.iterdir()), own_server.processes()
    own_server.launcher().kill()
    psutil.wait_procs(processes, SECONDS_TO_RECOVER)
    own_server.start()
    assert len(set(temporary.iterdir())) == len(before)
    assert before.isdisjoint(temporary.iterdir())


@pytest.mark.slow
def test_sigterm_ends_in_a_minute_though_the_worker_is_frozen(
    own_server: Server, launcher: subprocess.Popen[bytes]
) -> None:
    processes = own_server.processes()
    with Load(own_server, clients=BATCH + 2) as load:
        load.wait_for(4)
        own_server.workers()[0].suspend()
        wait_until(lambda: own_server.management.pending() >= 2)  # so the worker has a batch
        launcher.terminate()
        assert launcher.wait(60) == 0
    assert not any(process.is_running() for process in processes)


@pytest.mark.slow
def test_exhausted_restarts_turn_ping_red_in_a_minute_and_end_the_launcher(
    own_server: Server, launcher: subprocess.Popen[bytes]
) -> None:
    spoil_loaded_model(own_server)
    own_server.workers()[0].kill()
    killed = time.monotonic()
    health = f"{own_server.address('gateway')}/health"
    wait_until(lambda: requests.get(health, timeout=30).status_code != 200, 60)
    assert launcher.wait(60) == 1
    assert time.monotonic() - killed < 100
    assert "error: the workers died" in (own_server.folder / "stderr").read_text()


def test_slow_clients_keep_nobody_out(server: Server) -> None:
    with Load(server, clients=4) as load:
        load.wait_for(4)
        abuse.at_once([(abuse.trickle, 200), (abuse.trickle_body, 40)], server, 8)
        load.wait_for(4, since=time.monotonic())
    assert not failures(load)


def test_aborted_uploads_disturb_nobody(server: Server) -> None:
    with Load(server, clients=4) as load:
        load.wait_for(4)
        abuse.at_once([(abuse.abort, 64)], server, 5)
        load.wait_for(4, since=time.monotonic())
    assert not failures(load)


@pytest.mark.parametrize("name", abuse.SMUGGLING)
def test_a_request_with_two_meanings_is_refused_with_what_follows_it(
    server: Server, name: str
) -> None:
    answers = abuse.answers_to(server, abuse.SMUGGLING[name] + abuse.SMUGGLED)
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.split()[1] in (b"400", b"501")
    assert "smuggled" not in (server.folder / "logs/access.log").read_text()


def register_corrupt(server: Server, corruption: str, version: str) -> Refused:
    """TorchServe's refusal."""
    store = server.folder / "model_store"
    archive = store / f"catsdogs-{version}.mar"
    corrupt(store / "catsdogs.mar", corruption, version, archive)
    try:
        with pytest.raises(Refused) as refused:
            server.management.register(archive.name)
    finally:
        archive.unlink()
    return refused.value


QUICK = ["half an archive", "a handler with a syntax error"]
REST = [pytest.param(name, marks=pytest.mark.slow) for name in CORRUPTIONS if name not in QUICK]


@pytest.mark.parametrize("corruption", QUICK + REST)
def test_a_corrupt_archive_is_refused_and_disturbs_nobody(server: Server, corruption: str) -> None:
    version = f"9.{list(dict.fromkeys([*QUICK, *CORRUPTIONS])).index(corruption)}"
    with Load(server, clients=2) as load:
        load.wait_for(2)
        refused = register_corrupt(server, corruption, version)
        load.wait_for(2, since=time.monotonic())
    assert refused.status >= 400
    assert "already registered" not in str(refused)
    asked = requests.put(f"{server.predictions}/{version}", data=CAT, timeout=30)
    assert asked.status_code in (404, 503)  # TorchServe keeps the version of some, without workers
    status = 200
    try:
        server.management.unregister(version)
    except Refused as error:
        status = error.status
    assert status in (200, 404)
    assert not failures(load)


@pytest.mark.slow
def test_photos_get_a_503_while_the_model_is_unregistered(
    own_server: Server, launcher: subprocess.Popen[bytes]
) -> None:
    with Load(own_server) as load:
        load.wait_for(20)
        own_server.management.unregister()
        load.wait_for_status(503, 20)
        own_server.management.register("catsdogs.mar")
        load.wait_for(20, since=time.monotonic())
    assert set(failures(load)) <= {503, 504}


@pytest.mark.slow
def test_after_a_kill_of_the_gateway_nothing_of_it_keeps_its_ports(own_server: Server) -> None:
    own_server.start()
    launcher = own_server.launcher()
    for process in own_server.processes():
        if process.name().startswith("nginx") and process.ppid() == launcher.pid:
            process.kill()
    launcher.wait(30)
    console = (own_server.folder / "logs/console.log").read_text()
    assert "the gateway ended (killed by SIGKILL" in console
    own_server.start()  # its ports are free
