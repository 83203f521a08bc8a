"""The page in a real Chromium, with real servers."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import ExifTags, Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from handler.photo import decode_photo
from testing.repository import CLASSES, REPOSITORY, VERSION
from testing.servers import Server, wait_until
from tests.conftest import needs

pytestmark = needs("chromium")

CAT = REPOSITORY / "tests/pictures/cat.jpg"
MILLISECONDS = 20_000  # limit for an answer on a busy machine
expect.set_options(timeout=MILLISECONDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with opened(browser, server) as page:
        yield page


@contextmanager
def opened(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, without console errors, for example from its content security policy."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"{server.address('gateway')}/")
    yield page
    context.close()
    # The browser itself logs error statuses and failed connections.
    assert not [c for c in complaints if not c.startswith("Failed to load resource")]


def verdicts(page: Page, texts: list[str | re.Pattern[str]]) -> Locator:
    """The cards, once they say this."""
    expect(page.locator(".verdict")).to_have_text(texts)
    return page.locator(".card")


def give(page: Page, kind: str, name: str = "cat.jpg", photo: Path = CAT) -> None:
    """Dispatch a "drop" or "paste" event, as a browser does."""
    page.evaluate(
        """([kind, name, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name));
            const event = kind === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            document.body.dispatchEvent(event);
        }""",
        [kind, name, list(photo.read_bytes())],
    )


def drag(page: Page, **data: object) -> None:
    """Drop files or something else on the page, as a user does."""
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send(
            "Input.dispatchDragEvent",
            {
                "type": kind,
                "x": 200,
                "y": 200,
                "data": {"items": [], "dragOperationsMask": 1, **data},
            },
        )


def test_a_chosen_photo_is_answered_with_bars_time_and_version(page: Page) -> None:
    page.set_input_files("#files", CAT)
    card = verdicts(page, ["Cat"])
    expect(card.locator(".name")).to_have_text(CLASSES)
    assert card.locator("meter").first.evaluate("bar => bar.value") > 0.9
    expect(card.locator(".about")).to_have_text(re.compile(r"^\d+ ms · model \d+\.\d+$"))
    expect(page.locator("#count")).to_have_text("1 of 1 answered")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_may_be_dropped_or_pasted(page: Page, kind: str) -> None:
    give(page, kind)
    verdicts(page, ["Cat"])


@pytest.mark.slow
def test_a_camera_and_examples_give_photos_too(page: Page) -> None:
    page.set_input_files("#camera", CAT)
    for button in page.locator("#examples button").all():
        button.click()
    cards = verdicts(page, ["Cat", "Cat", "Dog"])
    expect(cards.locator("h3")).to_have_text(["cat.jpg", "cat.jpg", "dog.jpg"])


def test_about_a_picture_of_neither_the_page_is_not_sure(page: Page, tmp_path: Path) -> None:
    board = Image.new("1", (8, 8))
    board.putdata([(row + column) % 2 for row in range(8) for column in range(8)])
    board.resize((320, 320), Image.Resampling.NEAREST).save(tmp_path / "board.png")
    page.set_input_files("#files", tmp_path / "board.png")
    card = verdicts(page, [re.compile("^Not sure; perhaps (cat|dog)$")])
    expect(card.locator(".explain")).to_be_visible()


@pytest.mark.slow
def test_many_photos_at_once_are_all_answered(page: Page) -> None:
    page.set_input_files("#files", [CAT] * 12)
    verdicts(page, ["Cat"] * 12)
    expect(page.locator("#count")).to_have_text("12 of 12 answered")
    page.click("#clear")
    expect(page.locator(".card")).to_have_count(0)


@pytest.mark.slow
def test_a_heic_that_the_browser_can_not_show_is_answered(page: Page) -> None:
    page.set_input_files("#files", REPOSITORY / "tests/pictures/cat.heic")
    card = verdicts(page, ["Cat"])
    expect(card.locator("img")).to_be_hidden()


def test_what_is_no_photo_gets_the_servers_words_and_spoils_no_other(
    page: Page, tmp_path: Path
) -> None:
    (tmp_path / "<img src=x onerror=alert(1)>.txt").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(CAT.read_bytes()[:-500])
    page.set_input_files("#files", [*sorted(tmp_path.iterdir()), CAT])
    card = verdicts(
        page, [re.compile("Not a photo.*; send JPEG"), re.compile("truncated.*; send"), "Cat"]
    )
    expect(card.locator("h3").first).to_have_text("<img src=x onerror=alert(1)>.txt")
    expect(card.locator(".again").first).to_be_hidden()


def big_photo_on_its_side(path: Path) -> None:
    """12 megapixels, over 1.5 MB, which EXIF turns upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    cat = Image.open(CAT).transpose(Image.Transpose.ROTATE_90)
    noise = Image.effect_noise((3000, 4000), 40).convert("RGB")
    Image.blend(cat.resize((3000, 4000)), noise, 0.15).save(path, quality=90, exif=exif)
    assert path.stat().st_size > 1_500_000


@pytest.mark.slow
def test_a_big_photo_is_sent_smaller_and_upright_and_the_page_says_so(
    page: Page, tmp_path: Path
) -> None:
    sent: list[bytes] = []

    def keep(route: Route) -> None:
        sent.append(route.request.post_data_buffer or b"")
        route.continue_()

    page.route("**/predict", keep)
    big_photo_on_its_side(tmp_path / "big.jpg")
    page.set_input_files("#files", tmp_path / "big.jpg")
    card = verdicts(page, [re.compile("cat", re.IGNORECASE)])
    expect(card.locator(".about")).to_have_text(re.compile(r"shrunk from \S+ to \S+ MB"))
    small = Image.open(io.BytesIO(sent[0]))
    assert small.size == (2048, 1536)
    assert not small.getexif().get(ExifTags.Base.Orientation)
    distance = decode_photo(sent[0]).astype(int) - decode_photo((tmp_path / "big.jpg").read_bytes())
    assert abs(distance).mean() < 8


def test_the_heat_map_comes_on_demand_and_goes_again(page: Page) -> None:
    page.set_input_files("#files", CAT)
    card = verdicts(page, ["Cat"])
    photo = card.locator("img").get_attribute("src")
    card.locator(".explain").click()
    expect(card.locator(".explain")).to_have_text("Show photo")
    assert card.locator("img").get_attribute("src") != photo
    wait_until(lambda: card.locator("img").evaluate("picture => picture.naturalWidth") == 448)
    card.locator(".explain").click()
    expect(card.locator("img")).to_have_attribute("src", photo or "")


def test_a_heat_map_passes_waiting_photos_and_a_second_click_changes_nothing(page: Page) -> None:
    page.set_input_files("#files", CAT)
    verdicts(page, ["Cat"])
    held: list[Route] = []
    page.route("**/predict", lambda route: held.append(route))
    page.set_input_files("#files", [CAT] * 6)  # four are asked at once
    wait_until(lambda: len(held) == 4 or page.wait_for_timeout(50))
    button = page.locator(".explain").first
    button.click()
    button.click(force=True)
    held[0].continue_()
    expect(button).to_have_text("Show photo")


def test_a_large_photo_may_take_long_to_upload(page: Page, tmp_path: Path) -> None:
    waited = page.evaluate(
        """() => {
            const seen = [];
            const own = AbortSignal.timeout;
            AbortSignal.timeout = (ms) => { seen.push(ms); return own.call(AbortSignal, ms); };
            return (window.waited = seen);
        }"""
    )
    assert waited == []
    (tmp_path / "large.heic").write_bytes(b"no browser opens this" * 150_000)
    page.set_input_files("#files", [tmp_path / "large.heic"])
    verdicts(page, [re.compile("Not a photo")])
    (milliseconds,) = page.evaluate("window.waited")
    assert 300_000 < milliseconds < 1_000_000


@pytest.mark.slow
def test_an_unreachable_server_is_reported_and_asked_again(page: Page) -> None:
    page.context.set_offline(True)
    page.set_input_files("#files", CAT)
    card = verdicts(page, [re.compile("can't be reached")])
    page.context.set_offline(False)
    card.locator(".again").click()
    verdicts(page, ["Cat"])


@pytest.mark.slow
def test_a_slow_server_is_reported_during_the_wait(page: Page) -> None:
    held: list[Route] = []
    page.route("**/predict", lambda route: held.append(route))
    page.set_input_files("#files", CAT)
    verdicts(page, [re.compile("Still waiting")])
    held[0].continue_()
    verdicts(page, ["Cat"])


@pytest.mark.slow
def test_answers_are_downloaded_as_csv(page: Page, tmp_path: Path) -> None:
    (tmp_path / '=1+"1".txt').write_text("hello")
    page.set_input_files("#files", [CAT, *tmp_path.iterdir()])
    verdicts(page, ["Cat", re.compile("Not a photo")])
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row["file"] for row in rows] == ["cat.jpg", '\'=1+"1".txt']  # no formula
    assert rows[0]["label"] == "cat"
    assert rows[0]["certain"] == "true"
    assert "not a photo" in rows[1]["error"]


@pytest.mark.slow
def test_the_curl_command_asks_the_same(page: Page, server: Server) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.set_input_files("#files", CAT)
    card = verdicts(page, ["Cat"])
    card.locator(".copy").click()
    expect(card.locator(".copy")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    asked = server.run("bash", "-c", f"cd {CAT.parent} && {command} --silent")
    assert '"label": "cat"' in asked.stdout


@pytest.mark.slow
def test_all_is_reached_by_keyboard_alone(page: Page) -> None:
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "BUTTON":
            break
    assert "files" in reached
    page.keyboard.press("Enter")  # the first example
    verdicts(page, ["Cat"])
    page.locator(".explain").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".explain")).to_have_text("Show photo")


@pytest.mark.slow
def test_a_key_is_asked_for_and_each_card_tells_which_version_answered(
    browser: Browser, own_server: Server
) -> None:
    own_server.environment |= {
        "CATSDOGS_API_KEYS": "k" * 32, "CATSDOGS_CANARY": "50", "CATSDOGS_CANARY_VERSION": "3.0"
    }  # fmt: skip
    own_server.start()
    with opened(browser, own_server) as page:
        page.set_input_files("#files", [CAT] * 16)
        verdicts(page, [re.compile("API key is missing or wrong")] * 16)
        page.fill("#key", f"{'k' * 32}\u200b")  # pasted with a character that no header takes
        page.keyboard.press("Enter")
        verdicts(page, ["Cat"] * 16)
        about = page.locator(".about").all_text_contents()
    # Random ids choose the version: all 16 get the same one in a run of 30,000.
    assert {text.split()[-1] for text in about} == {VERSION, "3.0"}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, scheme: str, tmp_path: Path) -> None:
    page.emulate_media(color_scheme=scheme)
    (tmp_path / "no.txt").write_text("hello")
    page.set_input_files("#files", [CAT, tmp_path / "no.txt"])
    verdicts(page, ["Cat", re.compile("Not a photo")])
    found = Axe().run(page).response["violations"]
    assert not [v for v in found if v["impact"] in ("serious", "critical")], found


@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_is_cut_off_at_the_side(page: Page, width: int, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    (tmp_path / f"{'long-name-' * 9}.txt").write_text("hello")
    page.set_input_files("#files", [CAT, *tmp_path.iterdir()])
    verdicts(page, ["Cat", re.compile("Not a photo")])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_the_page_is_small_and_loads_nothing_from_elsewhere() -> None:
    folder = REPOSITORY / "gateway/page"
    loaded = [file for file in folder.rglob("*.*") if file.suffix != ".yaml"]
    assert sum(file.stat().st_size for file in loaded) < 55_000
    for file in folder.glob("*.*"):
        if file.suffix in (".html", ".css", ".js"):
            assert "//" not in re.sub(r"(?m)^\s*//.*|\s// .*$", "", file.read_text()), file


def test_the_page_asks_for_the_classes_that_the_model_knows(page: Page) -> None:
    *most, last = CLASSES
    expect(page.locator("h1")).to_have_text(f"{', '.join(most)} or {last}?".capitalize())


def test_examples_of_other_classes_than_the_models_are_hidden(page: Page) -> None:
    model = {"customizedMetadata": {"classes": ["circle", "dog", "star"], "threshold": 0.9}}
    page.route("**/model/info", lambda route: route.fulfill(json=[model]))
    page.reload()
    expect(page.locator("h1")).to_have_text("Circle, dog or star?")
    expect(page.get_by_role("button", name="Try a photo of a dog")).to_be_visible()
    expect(page.get_by_role("button", name="Try a photo of a cat")).to_be_hidden()


def test_a_confident_answer_that_is_not_certain_says_why(page: Page) -> None:
    model = {
        "modelVersion": "2.1",
        "customizedMetadata": {"classes": ["cat", "dog"], "threshold": 0.9},
    }
    page.route("**/model/info", lambda route: route.fulfill(json=[model]))
    page.reload()
    expect(page.locator("h1")).to_have_text("Cat or dog?")
    answer: dict[str, object] = {}
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    for confidence, certain, version, is_strange in (
        (0.95, False, "2.1", True),
        (0.95, True, "2.1", False),
        (0.85, False, "2.1", False),
        (0.95, False, "3.0", False),  # a canary, whose threshold may be higher
    ):
        answer |= {
            "label": "cat", "confidence": confidence, "certain": certain, "model_version": version,
            "probabilities": {"cat": confidence, "dog": 1 - confidence},
        }  # fmt: skip
        page.set_input_files("#files", CAT)
        expect(page.locator("#count")).to_have_text("1 of 1 answered")
        about = page.locator(".card .about").text_content() or ""
        assert ("unlike the photos that the model knows" in about) == is_strange
        assert f"model {version}" in about
        page.click("#clear")


@pytest.mark.parametrize(
    ("status", "verdict"), [(502, "gave no reason."), (413, "is too large; send a smaller copy")]
)
def test_an_error_that_is_no_json_is_an_answer_too(page: Page, status: int, verdict: str) -> None:
    page.route("**/predict", lambda route: route.fulfill(status=status, body="<html>proxy</html>"))
    page.set_input_files("#files", CAT)
    verdicts(page, [re.compile(verdict)])
    expect(page.locator("#count")).to_have_text("1 of 1 answered")
    with page.expect_download() as download:
        page.click("#csv")
    (row,) = csv.DictReader(io.StringIO(Path(download.value.path()).read_text()))
    assert row["error"] == f"status {status}"
    page.click("#clear")
    expect(page.locator(".card")).to_have_count(0)


def test_an_error_that_is_no_json_can_be_tried_again(page: Page) -> None:
    page.route("**/predict", lambda route: route.fulfill(status=502, body="<html>proxy</html>"))
    page.set_input_files("#files", CAT)
    card = verdicts(page, ["The server gave no reason."])
    page.unroute("**/predict")
    card.locator(".again").click()
    verdicts(page, ["Cat"])


def test_an_example_that_can_not_be_loaded_is_reported(page: Page) -> None:
    page.route("**/examples/cat.jpg", lambda route: route.abort())
    page.locator("[data-example]").first.click()
    expect(page.locator("#message")).to_have_text(re.compile("^The example can't be loaded."))


def test_the_photos_of_a_dropped_folder_are_answered_and_other_files_left_out(
    page: Page, tmp_path: Path
) -> None:
    folder = tmp_path / "holiday"
    (folder / "day 2").mkdir(parents=True)
    for name in ("b10.JPG", "b9.jpeg", "day 2/a.jpg", ".hidden.jpg", "list.txt"):
        shutil.copy(CAT, folder / name)
    drag(page, files=[str(folder), str(CAT)])
    cards = verdicts(page, ["Cat"] * 4)
    names = ["holiday/b9.jpeg", "holiday/b10.JPG", "holiday/day 2/a.jpg", "cat.jpg"]
    expect(cards.locator("h3")).to_have_text(names)
    expect(page.locator("#message")).to_be_empty()


@pytest.mark.slow
def test_a_folder_of_very_many_photos_is_read_to_its_end(page: Page, tmp_path: Path) -> None:
    page.route("**/predict", lambda route: route.fulfill(status=400, json={"message": "no"}))
    for number in range(250):  # a reader gives a hundred at a time
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    drag(page, files=[str(tmp_path)])
    expect(page.locator("#count")).to_have_text("250 of 250 answered")


def test_a_folder_without_photos_is_reported_until_the_next_photo(
    page: Page, tmp_path: Path
) -> None:
    folder = tmp_path / "<b>texts"
    folder.mkdir()
    (folder / "list.txt").write_text("hello")
    drag(page, files=[str(folder)])
    expect(page.locator("#message")).to_have_text("The folder <b>texts contains no photos.")
    page.set_input_files("#files", CAT)
    expect(page.locator("#message")).to_be_empty()


def test_something_that_is_no_file_is_reported(page: Page) -> None:
    message = page.locator("#message")
    link = {"mimeType": "text/uri-list", "data": "https://example.org/cat.jpg"}
    picture = {"mimeType": "text/html", "data": "<img src='https://example.org/cat.jpg'>"}
    for drop in ([link], [link, picture], [{"mimeType": "text/plain", "data": "a cat"}]):
        drag(page, items=drop)
        expect(message).to_have_text(
            re.compile("^Only files can be dropped or pasted. Save the pict")
        )
        page.locator("#clear").evaluate("button => button.onclick()")
        expect(message).to_be_empty()
    paste = """selector => {
        const data = new DataTransfer();
        data.setData("text/plain", "https://example.org/cat.jpg");
        const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
        document.querySelector(selector).dispatchEvent(event);
    }"""
    page.evaluate(paste, "#key")  # a key is text
    expect(message).to_be_empty()
    page.evaluate(paste, "body")
    expect(message).to_have_text(re.compile("^Only files can be"))
    expect(page.locator(".card")).to_have_count(0)


def test_a_missing_file_is_reported_and_not_tried_again(page: Page, tmp_path: Path) -> None:
    gone, changed = (Path(shutil.copy(CAT, tmp_path / name)) for name in ("gone.jpg", "new.jpg"))
    held: list[Route] = []
    page.route("**/predict", lambda route: held.append(route))
    page.set_input_files("#files", [CAT] * 4)  # as many as are asked at once: the next two wait
    wait_until(lambda: len(held) == 4 or page.wait_for_timeout(50))
    page.set_input_files("#files", [gone, changed])
    expect(page.locator(".card")).to_have_count(6)
    gone.unlink()
    changed.write_bytes(b"another")
    page.unroute("**/predict")  # which lets those that are held go on
    lost = re.compile("^The file can't be read: it was moved, deleted or changed. Choose it again")
    cards = verdicts(page, ["Cat"] * 4 + [lost] * 2)
    expect(cards.nth(4).locator(".again")).to_be_hidden()
    expect(page.locator("#count")).to_have_text("6 of 6 answered")


@pytest.mark.slow
def test_the_reason_for_a_missing_heat_map_is_reported(page: Page, tmp_path: Path) -> None:
    photo = Path(shutil.copy(CAT, tmp_path))
    page.set_input_files("#files", photo)
    card = verdicts(page, ["Cat"])
    answers = iter([(503, '{"message": "the queue is full"}'), (502, "<html>proxy</html>")])

    def refuse(route: Route) -> None:
        status, body = next(answers)
        route.fulfill(status=status, body=body)

    page.route("**/explain", refuse)
    for reason in ("The queue is full", "The server gave no reason."):
        card.locator(".explain").click()
        expect(card.locator(".about")).to_have_text(f"No heat map. {reason}")
    page.unroute("**/explain")
    page.context.set_offline(True)
    card.locator(".explain").click()
    expect(card.locator(".about")).to_have_text(re.compile("can't be reached"))
    page.context.set_offline(False)
    photo.unlink()
    card.locator(".explain").click()
    expect(card.locator(".about")).to_have_text(re.compile("it was moved, deleted or changed"))
