"""Some minutes of traffic: normal photos, more of them, dying workers, dark photos."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
from PIL import Image, ImageEnhance

from testing.load import LATE, is_whole
from testing.servers import Server

PHOTOS = 500  # at most
PARTS = 5
CLIENTS, MANY = 3, 10
PAUSE = 0.2  # s between two photos of a client


def live(server: Server, folder: Path, seconds: float) -> None:
    """Send photos of `folder` for PARTS times `seconds`."""
    usual = photos(folder)
    with clients(server, usual, CLIENTS):
        time.sleep(seconds)
    with clients(server, usual, MANY):
        time.sleep(seconds)
        kill_workers(server, seconds)
    with clients(server, [darkened(photo) for photo in usual], MANY):
        time.sleep(2 * seconds)


def kill_workers(server: Server, seconds: float) -> None:
    """Kill a worker whenever all are ready: after 45 s without any, tools/serve would end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_whole(server):
            server.workers()[0].kill()
        time.sleep(1)


def photos(folder: Path) -> list[bytes]:
    found = sorted(folder.rglob("*.jpg"))
    return [path.read_bytes() for path in random.Random(0).sample(found, min(PHOTOS, len(found)))]


def darkened(photo: bytes) -> bytes:
    """The photo at three tenths of its brightness."""
    dark = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as picture:
        ImageEnhance.Brightness(picture).enhance(0.3).save(dark, "JPEG")
    return dark.getvalue()


@contextmanager
def clients(server: Server, photos: list[bytes], count: int) -> Iterator[None]:
    """Keep so many clients sending photos."""
    stopping = threading.Event()
    threads = [
        threading.Thread(target=send, args=(server, photos, stopping, random.Random(seed)))
        for seed in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(LATE + 10)


def send(
    server: Server, photos: list[bytes], stopping: threading.Event, chance: random.Random
) -> None:
    """Random photos; of a hundred requests, three are no photos and two disconnect early."""
    while not stopping.wait(PAUSE):
        lot = chance.random()
        body = {0: b"%PDF-1.7", 1: b"\xff\xd8\xff", 2: b""}.get(int(100 * lot))
        patience = 0.01 if lot > 0.98 else LATE
        with suppress(requests.RequestException):
            requests.put(
                f"{server.address('gateway')}/predict",
                data=chance.choice(photos) if body is None else body,
                timeout=patience,
            )
