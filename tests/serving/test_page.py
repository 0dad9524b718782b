"""The page at /, clicked through in a headless Chromium that reaches nothing but the server."""

import base64
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright import sync_api

from tests.serving.tiny_server import make_service, running

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUESTIONS = ("How many ships are moored?", "What colour is the car?")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture of several tiles, with its file."""
    x, y = np.meshgrid(np.arange(900), np.arange(600))
    pixels = np.stack([x // 40 * 10 % 256, y // 40 * 16 % 256, (x + y) // 3 % 256], axis=2).astype(np.uint8)
    path = tmp_path_factory.mktemp("picture") / "harbour.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def url(model):
    read = {"max_pixels": 10**6, "largest_view": max(model.cfg.compressor.sizes_px)}
    with running(make_service(model, read=read), api_key="secret") as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    """A page of which nothing failed and nothing came from elsewhere."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(120_000)
    wrong, asked = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    refused = "Failed to load resource"  # without the key, or no picture; the page says so itself
    page.on(
        "console", lambda line: wrong.append(line.text) if line.type == "error" and refused not in line.text else None
    )
    page.on("request", lambda request: asked.append(request.url))
    page.asked = asked
    page.goto(url)
    page.fill("#key", "secret")
    page.click("#keyform button")
    sync_api.expect(page.locator("#model")).to_contain_text("tiny")
    yield page
    assert wrong == []
    assert all(address.startswith((url, "data:", "blob:")) for address in asked)
    page.close()


def ask(page, question):
    page.fill("#question", question)
    page.click("#send")
    sync_api.expect(page.locator("#asked")).to_have_text(question, timeout=120_000)
    return page.inner_text("#answer")


def test_a_picture_is_chosen_zoomed_asked_and_seen_through(page, model, picture):
    scene = model.encode(picture)
    page.set_input_files("#file", picture)
    page.wait_for_selector("#send:enabled")
    assert page.inner_text("#about").startswith("harbour.png; 900 × 600 pixels")

    answers = {question: scene.ask(question, max_new_tokens=16) for question in QUESTIONS}
    for question, answer in answers.items():
        ask(page, question)
        assert page.evaluate("state.shown.answer") == answer.text
        assert page.text_content("#answer") == answer.text
        cells = [row.split("\t") for row in page.inner_text("#kept").splitlines()]
        rows = [int(kept) + int(merged.split(" in ")[-1]) for _, kept, merged, _ in cells]
        assert tuple(rows) == answer.tokens_kept[0]

    assert page.locator(".layer").count() == 0
    for kind in ("importance", "fate"):
        page.check(f"input[name=kind][value={kind}]")
        for size in ("112", "224"):
            page.select_option("#scale", size)
            assert page.get_attribute(".layer", "alt") == f"{kind} of the {size} px view"
    assert "kept" in page.inner_text("#legend") and page.locator(".layer").count() == 1
    page.check("#evidence")
    kept = page.get_attribute(".evidence .kept", "d").count("M")
    index = answers[QUESTIONS[1]].selections[0][1].keep_index
    assert kept == np.sum(index >= 0)

    page.evaluate("batViewer.viewport.zoomTo(6, null, true)")
    while not page.evaluate("batViewer.world.getItemAt(0).getFullyLoaded()"):
        page.wait_for_timeout(20)
    shown = {address.rpartition("/tiles/")[2] for address in page.asked if "/tiles/" in address}
    assert shown & {f"1/{x}/{y}" for x in (0, 1) for y in (0, 1)}  # the picture itself

    page.click("#history li:last-child button")
    assert page.inner_text("#asked") == QUESTIONS[0]
    assert page.evaluate("state.shown.answer") == answers[QUESTIONS[0]].text


def test_layers_lie_where_the_picture_is(page, picture):
    """The square of a picture of 900 x 600 reaches 150 pixels beyond its top and its bottom."""
    page.set_input_files("#file", picture)
    page.wait_for_selector("#send:enabled")
    ask(page, QUESTIONS[0])
    page.check("input[name=kind][value=fate]")
    page.wait_for_selector(".layer")
    corners = page.evaluate(
        """() => {
            const item = batViewer.world.getItemAt(0), box = document.querySelector('.layer').getBoundingClientRect();
            const corner = (x, y) => item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
            const [first, last] = [corner(0, -150), corner(900, 750)];
            return [[first.x, first.y, last.x, last.y], [box.left, box.top, box.right, box.bottom]];
        }"""
    )
    np.testing.assert_allclose(corners[0], corners[1], atol=2)


def test_a_picture_that_is_dropped_is_opened_and_what_is_none_is_named(page, picture):
    drop = """([text, name]) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], name));
        const drop = new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true });
        document.querySelector('#viewer').dispatchEvent(drop);
    }"""
    page.evaluate(drop, [base64.b64encode(picture.read_bytes()).decode(), "dropped.png"])
    sync_api.expect(page.locator("#about")).to_contain_text("dropped.png; 900 × 600")
    page.evaluate(drop, [base64.b64encode(b"no picture").decode(), "notes.txt"])
    sync_api.expect(page.locator("#status.error")).to_contain_text("notes.txt: not an image")
    assert page.is_enabled("#send")


def test_a_follow_up_keeps_the_turns_before(page, model, picture):
    from bat_jax.io.prompts import Dialogue

    page.set_input_files("#file", picture)
    page.wait_for_selector("#send:enabled")
    ask(page, QUESTIONS[0])
    first = page.evaluate("state.shown.answer")
    page.check("#followup")
    ask(page, QUESTIONS[1])
    expected = model.encode(picture).ask(Dialogue(QUESTIONS[1], ((QUESTIONS[0], first),)), max_new_tokens=16)
    assert page.evaluate("state.shown.answer") == expected.text


def test_on_a_narrow_window_nothing_is_wider_than_it(page, picture):
    page.set_viewport_size({"width": 400, "height": 800})
    page.set_input_files("#file", picture)
    page.wait_for_selector("#send:enabled")
    ask(page, QUESTIONS[0])
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    viewer, panel = page.locator("#viewer").bounding_box(), page.locator("aside").bounding_box()
    assert viewer["height"] > 300 and panel["y"] >= viewer["y"] + viewer["height"] - 1
