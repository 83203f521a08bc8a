"""The dashboard in Grafana's types and components, with the answers of a real Prometheus."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Error, Locator, Page, expect

from testing.repository import CARD, CLASSES, REPOSITORY, VERSION
from testing.servers import wait_until
from tests.conftest import needs
from tests.dashboard.draw import FOLDER, MODULES, View, browsing, bundle, drawn, install, lived
from tests.e2e.prometheus import Prometheus
from tests.monitoring.test_dashboard import DASHBOARD, PANELS

pytestmark = [*map(needs, ("npm", "prometheus", "chromium")), pytest.mark.slow]

Where = tuple[str | int, ...]  # a path into the dashboard
Draw = Callable[[dict[str, Any]], AbstractContextManager[Page]]
PHOTOS = REPOSITORY / "gateway/page/examples"
STAT = next(n for n, panel in enumerate(DASHBOARD["panels"]) if panel["type"] == "stat")
# Faults that TypeScript must find.
FAULTS: dict[Where, Any] = {
    ("refesh",): "30s",
    ("time", "form"): "now-3h",
    ("graphTooltip",): 3,
    ("annotations", "list", 0, "color"): "red",
    ("templating", "list", 1, "refesh"): 2,
    ("templating", "list", 1, "sort"): 9,
    ("panels", 0, "colapsed"): True,
    ("panels", 1, "titel"): "Photos",
    ("panels", 1, "type"): "timeserie",
    ("panels", 1, "gridPos", "width"): 12,
    ("panels", 1, "targets", 0, "legend"): "{{code}}",
    ("panels", 1, "options", "legend", "placment"): "right",
    ("panels", 1, "options", "legend", "placement"): "top",
    ("panels", 1, "fieldConfig", "defaults", "min"): "0",
    ("panels", 1, "fieldConfig", "defaults", "custom", "fillOpacty"): 10,
    ("panels", 1, "fieldConfig", "defaults", "custom", "stacking", "mode"): "stacked",
    ("panels", 1, "fieldConfig", "overrides", 0, "properties", 0, "id"): "colour",
    ("panels", 1, "fieldConfig", "overrides", 0, "properties", 0, "value", "mode"): "red",
    ("panels", STAT, "options", "colorMode"): "text",
    ("panels", STAT, "options", "reduceOptions", "calc"): "lastNotNull",
}
# The number of pixels of the canvas with colours of the legend.
COLOURED = """section => {
    const icons = [...section.querySelectorAll('[data-testid="series-icon"]')];
    const colours = icons.map(icon => getComputedStyle(icon).background.match(/\\d+/g));
    const canvas = section.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const near = at => colour => [0, 1, 2].every(n => Math.abs(colour[n] - data[at + n]) < 5);
    let count = 0;
    for (let at = 0; at < data.length; at += 4) {
        count += data[at + 3] > 100 && colours.some(near(at));
    }
    return count;
}"""


def changed(path: Where, value: Any) -> dict[str, Any]:
    """The dashboard with `value` at `path`."""
    dashboard = copy.deepcopy(DASHBOARD)
    here: Any = dashboard
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return dashboard


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    install()


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """TypeScript's errors by file: the page, the dashboard, and the numbered faulty ones."""
    folder = tmp_path_factory.mktemp("types")
    dashboards = {"dashboard": DASHBOARD} | {
        str(number): changed(*fault) for number, fault in enumerate(FAULTS.items())
    }
    for name, dashboard in dashboards.items():
        (folder / f"{name}.ts").write_text(
            f'import type {{ Dashboard }} from "{FOLDER}/dashboard";\n'
            f"export const dashboard: Dashboard = {json.dumps(dashboard)};\n"
        )
    files = [str(FOLDER / "page.tsx"), *(f"{name}.ts" for name in dashboards)]
    config = {"extends": str(FOLDER / "tsconfig.json"), "files": files}
    (folder / "tsconfig.json").write_text(json.dumps(config))
    command = [MODULES / ".bin/tsc", "--pretty", "false"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = defaultdict(list)
    for file, complaint in re.findall(r"^(\S+)\(\d+,\d+\): error (.*)$", done.stdout, re.MULTILINE):
        found[Path(file).stem].append(complaint)
    assert found, done.stdout + done.stderr
    return found


@pytest.mark.parametrize("file", ["dashboard", "page"])
def test_grafanas_types_take_what_there_is(complaints: dict[str, list[str]], file: str) -> None:
    assert not complaints[file]


@pytest.mark.parametrize(
    "number", range(len(FAULTS)), ids=[".".join(map(str, path)) for path in FAULTS]
)
def test_a_wrong_key_or_value_is_found(complaints: dict[str, list[str]], number: int) -> None:
    assert complaints[str(number)]


@pytest.fixture(scope="module")
def view() -> Iterator[View]:
    with lived(PHOTOS, duration=40, seconds=1) as view:
        yield view


@pytest.fixture(scope="module")
def draw(view: View, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Draw]:
    bundled = bundle(tmp_path_factory.mktemp("page"))
    with browsing() as browser:
        yield lambda dashboard: drawn(browser, bundled, dashboard, view)


@pytest.fixture(scope="module")
def page(draw: Draw) -> Iterator[Page]:
    with draw(DASHBOARD) as page:
        yield page


def panel(page: Page, title: str) -> Locator:
    heading = page.get_by_role("heading", name=title, exact=True)
    return page.locator("section").filter(has=heading)


def legend(panel: Locator) -> list[str]:
    return panel.locator("[data-testid*=VizLegend] button").all_inner_texts()


def test_every_panel_draws_something(page: Page) -> None:
    expect(page.locator("section")).to_have_count(len(PANELS))
    expect(page.get_by_text("No data")).to_have_count(0)
    for title in (shown["title"] for shown in PANELS if shown["type"] == "timeseries"):
        assert panel(page, title).evaluate(COLOURED) > 20, title


def test_legends_name_each_series(page: Page) -> None:
    names = {shown["title"]: legend(panel(page, shown["title"])) for shown in PANELS}
    assert {"200", "415"} <= set(names["Photo requests, by status"])
    assert names["Photos, by answer"] == CLASSES
    assert names["Workers ready"] == [f"{VERSION} ready", "wanted"]
    quantities = sorted(CARD["reference"]["drift_features"])
    assert names["Distance from the validation photos (PSI)"] == quantities
    for title, of_panel in names.items():
        assert len(set(of_panel)) == len(of_panel), title
        assert not re.search(r"[{}()$]", "".join(of_panel)), title


def test_titles_are_not_cut(page: Page) -> None:
    for heading in page.get_by_role("heading").all():
        assert heading.evaluate("h => h.scrollWidth <= h.clientWidth"), heading.inner_text()


def test_a_panel_without_data_says_so(draw: Draw) -> None:
    with draw(changed(("panels", 1, "targets", 0, "expr"), "no_such_metric")) as page:
        expect(page.get_by_text("No data")).to_have_count(1)
        expect(panel(page, PANELS[0]["title"]).get_by_text("No data")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("targets", 0, "expr"), 'up{job="$jobs"}'),
        (("targets", 0, "datasource", "uid"), "${prometheus}"),
        (("fieldConfig", "defaults", "unit"), "reqsp"),
        (("fieldConfig", "overrides", 0, "properties", 0, "value", "fixedColor"), "gren"),
        (("options", "legend", "calcs"), ["lastNotNul"]),
    ],
)
def test_an_unknown_name_is_refused(draw: Draw, path: Where, value: Any) -> None:
    dashboard = changed(("panels", 1, *path), value)
    with pytest.raises(Error, match=re.escape("".join(value))), draw(dashboard):
        pass


def test_what_is_drawn_has_errors_and_a_restart(view: View) -> None:
    prometheus = Prometheus(view.prometheus)
    assert sum(prometheus.values('gateway_requests_total{code="415"}')) > 0
    wait_until(lambda: sum(prometheus.values("torchserve_worker_restarts_total")) > 0, 90)
