"""TorchServe as its own commands start it, without the gateway."""

from __future__ import annotations

from pathlib import Path

import psutil
import requests

from testing.repository import CLASSES, REPOSITORY
from testing.servers import Server, wait_until

CAT = REPOSITORY / "tests/pictures/cat.jpg"


def test_torchserve_starts_answers_and_stops_as_the_readme_says(own_server: Server) -> None:
    start, stop = (
        line.split()
        for line in (REPOSITORY / "README.md").read_text().splitlines()
        if line.startswith("torchserve --")
    )
    with (own_server.folder / "output").open("w") as output:  # the frontend keeps it open
        psutil.Popen(start, cwd=own_server.folder, env=own_server.environment, stdout=output).wait()
    pid_file = Path(own_server.environment["TMPDIR"]) / ".model_server.pid"
    frontend = psutil.Process(int(pid_file.read_text()))
    url = f"{own_server.address('inference')}/predictions/catsdogs"

    def label() -> str | None:
        try:
            answer = requests.put(url, data=CAT.read_bytes(), timeout=90)
        except requests.ConnectionError:
            return None
        return answer.json().get("label")

    try:
        wait_until(lambda: label() in CLASSES, seconds=120)
    finally:
        family = [frontend, *frontend.children(recursive=True)]
        own_server.run(*stop, "--foreground")
        _, alive = psutil.wait_procs(family, timeout=90)
    assert alive == []
