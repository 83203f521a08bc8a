"""Draw monitoring/dashboard.json as Grafana does, from some minutes of real servers.

python -m tests.dashboard.draw PHOTOS [--minutes 14]

Writes docs/dashboard.png. PHOTOS is a folder of JPEGs like those that the model was trained on:
panels compare them with the validation photos. Needs npm, prometheus and chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from testing.repository import REPOSITORY
from testing.servers import temporary_server
from tests.dashboard.traffic import PARTS, live
from tests.e2e.prometheus import started_prometheus

FOLDER = Path(__file__).parent
MODULES = FOLDER / "node_modules"
PICTURE = REPOSITORY / "docs/dashboard.png"
WIDTH = 1100  # px
MILLISECONDS = 60_000  # limit for drawing on a busy machine


@dataclass(frozen=True)
class View:
    """A Prometheus and a time range (Unix time in seconds) to draw."""

    prometheus: str
    seconds: int  # between two scrapes
    start: float
    end: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--minutes", type=float, default=14)
    arguments = parser.parse_args()
    install()
    dashboard = json.loads((REPOSITORY / "monitoring/dashboard.json").read_text())
    with (
        tempfile.TemporaryDirectory() as folder,
        lived(arguments.photos, 60 * arguments.minutes, 5) as view,
        browsing() as browser,
        drawn(browser, bundle(Path(folder)), dashboard, view) as page,
    ):
        photograph(page, PICTURE)


def install() -> None:
    """Install the packages of package-lock.json if they are missing."""
    locked, installed = FOLDER / "package-lock.json", MODULES / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < locked.stat().st_mtime:
        run("npm", "ci")


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def lived(photos: Path, duration: float, seconds: int) -> Iterator[View]:
    """A Prometheus that has scraped real servers for `duration` at an interval in seconds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        temporary_server() as server,
        started_prometheus(server, Path(folder), seconds) as prometheus,
    ):
        start = time.time()
        live(server, photos, duration / PARTS)
        yield View(prometheus.address, seconds, start, time.time())


@contextmanager
def browsing() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--allow-file-access-from-files"],
        )
        yield browser
        browser.close()


def bundle(folder: Path) -> Path:
    """`folder`, with the page that draws and what Grafana's components load."""
    run(
        MODULES / ".bin/esbuild", "page.tsx", "--bundle", "--minify", f"--outdir={folder}",
        "--loader:.ttf=empty", "--log-level=warning",
    )  # fmt: skip
    shutil.copy(FOLDER / "page.html", folder)
    for kind in ("build", "fonts/inter"):
        (folder / "public" / kind).mkdir(parents=True)
    (folder / "public/build/img").symlink_to(MODULES / "@grafana/ui/dist/public/img")
    for name, weight in (("Regular", 400), ("Medium", 500)):
        font = MODULES / f"@fontsource/inter/files/inter-latin-{weight}-normal.woff2"
        (folder / f"public/fonts/inter/Inter-{name}.woff2").symlink_to(font)
    return folder


@contextmanager
def drawn(browser: Browser, bundled: Path, dashboard: dict[str, Any], view: View) -> Iterator[Page]:
    """The page, once it is stable. Raises playwright's Error with the page's errors."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 800})
    page.set_default_timeout(MILLISECONDS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto((bundled / "page.html").as_uri())
    try:
        page.evaluate("([dashboard, view]) => draw(dashboard, view)", [dashboard, asdict(view)])
        before = b""
        while before != (before := page.screenshot(full_page=True)):
            pass
        assert not complaints, complaints
        yield page
    finally:
        page.close()


def photograph(page: Page, picture: Path) -> None:
    """Reduce to 256 colours, which takes a third of the bytes."""
    page.screenshot(path=picture, full_page=True)
    with Image.open(picture) as full:
        few = full.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    few.save(picture, optimize=True)


if __name__ == "__main__":
    main()
