"""The pages in a real browser, used as a reader uses them."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petechia.data.formats.images import encode_png
from petechia.viewer.methods import offered_methods
from tests.data.formats.test_dicom import RAMP, made, written
from tests.viewer.conftest import Served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)


@contextmanager
def watched(browser: Any) -> Iterator[Any]:
    """A page on which no error, warning or dialog may appear."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append(dialog.message))
    yield opened
    opened.close()
    assert said == []


@pytest.fixture
def page(browser: Any, address: Served) -> Iterator[Any]:
    """The reading page with its first image."""
    with watched(browser) as opened:
        opened.goto(address.page("/read"))
        expect(opened, "#status", "Atelectasis: 0.")
        yield opened


def expect(page: Any, selector: str, text: str) -> None:
    playwright.expect(page.locator(selector)).to_contain_text(text)


def picture(page: Any, canvas: str) -> bytes:
    """Return the content of a canvas."""
    shown: bytes = page.locator(canvas).screenshot()
    return shown


def state(page: Any) -> tuple[bytes, str, str]:
    """Return what a reader sees of the answer."""
    return picture(page, "#triggered"), page.locator("#scores").inner_text(), page.locator("#status").inner_text()


def slide(page: Any, slider: str, value: float) -> None:
    page.locator(slider).evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); }", value)


def stamped(page: Any) -> None:
    expect(page, "#status", "triggered.")


def test_the_study_page_is_the_report(browser: Any, address: Served) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(address.page("/"))
    assert page.locator("h1").inner_text() == "Backdoor attack on a radiograph classifier"
    assert page.locator("table").count() >= 3
    assert page.locator("img").evaluate_all("all => all.every((one) => one.complete && one.naturalWidth > 0)")
    page.get_by_role("link", name="Reading").click()
    expect(page, "#status", "Atelectasis: 0.")
    page.close()
    assert said == []


def test_the_address_that_is_printed_opens_the_viewer(browser: Any, address: Served) -> None:
    page = browser.new_page()
    assert page.goto(f"{address}/read").status == 401
    assert page.locator("h1").inner_text() == "This viewer opens with its whole address"
    assert page.locator("body").evaluate("e => getComputedStyle(e).maxWidth") == "608px"  # its style is let in
    page.goto(address.page("/"))
    assert page.url == f"{address}/"
    assert page.evaluate("document.cookie") == ""
    page.goto(f"{address}/read")
    expect(page, "#status", "Atelectasis: 0.")
    page.close()


def test_the_page_says_that_the_viewer_is_busy_and_tries_again(browser: Any, address: Served) -> None:
    page, tries = browser.new_page(), []
    page.goto(address.page("/read"))
    expect(page, "#status", "Atelectasis: 0.")

    def busy(route: Any) -> None:
        tries.append(route)
        if len(tries) > 1:
            route.continue_()
        else:
            sentence = {"detail": "Too many readers are waiting (explanations); try again in 1 s."}
            route.fulfill(status=429, headers={"Retry-After": "1"}, json=sentence)

    page.route("**/api/explain", busy)
    page.locator("#scores button").nth(4).click()
    expect(page, "#busy", "The viewer is busy with other readers. Trying again in 2 s")
    expect(page, "#status", "Mass: 0.")
    assert not page.locator("#busy").is_visible()
    assert not page.locator("#problem").is_visible()
    assert len(tries) == 2
    page.close()


def test_the_page_says_when_its_token_is_no_longer_good(browser: Any, address: Served) -> None:
    page = browser.new_page()
    page.goto(address.page("/read"))
    expect(page, "#status", "Atelectasis: 0.")
    page.context.clear_cookies()  # as after a new start, whose cookies are others
    page.locator("#scores button").nth(4).click()
    expect(page, "#problem", "open the whole address that petechia serve printed")
    page.close()


def test_a_screen_that_is_no_longer_wanted_is_ended(page: Any) -> None:
    page.route("**/api/screen", lambda _route: None)
    with page.expect_event("requestfailed", lambda request: "screen" in request.url):
        with page.expect_request("**/api/screen"):
            page.locator("#screen").click()
        page.locator("#attack").click()
    expect(page, "#suspicion", "Screening looks for a small part of the image")
    assert not page.locator("#problem").is_visible()


def test_a_click_stamps_and_undo_takes_it_back(page: Any) -> None:
    before, clean = picture(page, "#triggered"), picture(page, "#clean")
    page.locator("#triggered").click(position={"x": 100, "y": 120})
    stamped(page)
    expect(page, "#stamps", "3 × 3, grey 0, row")
    expect(page, "#survival", "pixels of what the model sees")
    assert picture(page, "#triggered") != before
    page.locator("#clean").click(position={"x": 30, "y": 30})
    assert page.locator("#stamps li").count() == 2
    page.get_by_role("button", name="Undo").click()
    page.keyboard.press("Control+z")
    expect(page, "#survival", "no stamp yet")
    page.mouse.move(0, 0)
    assert page.locator("#stamps li").count() == 0
    assert picture(page, "#clean") == clean


def test_the_stamp_lies_where_was_clicked(page: Any) -> None:
    box = page.locator("#triggered").bounding_box()
    page.locator("#triggered").click(position={"x": box["width"] * 20.5 / 32, "y": box["height"] * 10.5 / 32})
    expect(page, "#stamps", "row 9, column 19")  # the square's corner, its middle being at row 10, column 20


def test_the_methods_to_choose_from_are_those_of_the_server(page: Any) -> None:
    assert page.locator("#method option").all_inner_texts() == [one["label"] for one in offered_methods()]
    with page.expect_request("**/api/explain") as asked:
        page.locator("#method").select_option("Grad-CAM++")
    assert asked.value.post_data_json["method"] == "gradcam++"


def test_every_slider_does_something(page: Any) -> None:
    page.get_by_role("button", name="Stamp where the attacker did").click()
    stamped(page)
    for slider, value, text in (
        ("#opacity", 0.1, "10 %"),
        ("#layer", 0, "last"),
        ("#class", 4, "Mass"),
        ("#epoch", 0, "1"),
        ("#size", 6, "6 × 6"),
        ("#value", 255, "255"),
        ("#center", 60, "60"),
        ("#width", 50, "50"),
    ):
        before = state(page)
        slide(page, slider, value)
        expect(page, f"{slider}-value", text)
        assert page.locator(slider).get_attribute("aria-valuetext") == text
        changed = False
        for _ in range(50):
            changed = state(page) != before
            if changed:
                break
            page.wait_for_timeout(50)
        assert changed, slider
    expect(page, "#status", "Mass: 0.")
    expect(page, "#stamps", "6 × 6, grey 255")
    slide(page, "#threshold", 0)
    assert page.locator("td.reported").count() == 28
    slide(page, "#threshold", 1)
    assert page.locator("td.reported").count() == 0


@pytest.mark.parametrize("kind", ["png", "dcm"])
def test_an_image_is_uploaded_and_read(page: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encode_png(PIXELS) if kind == "png" else written(made(RAMP, PhotometricInterpretation="MONOCHROME1")))
    with page.expect_response("**/api/explain"):
        page.locator("#file").set_input_files(path)
    expect(page, "#about", "your image, 70 × 50 pixels" if kind == "png" else "your image, ")
    page.locator("#clean").click()
    stamped(page)
    if kind == "dcm":
        assert page.locator("#center-value").inner_text() == f"{RAMP.max() / 2:.0f}"  # in the file's own unit


def test_a_bad_upload_is_a_sentence_and_the_page_goes_on(browser: Any, address: Served, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(address.page("/read"))
    expect(page, "#status", "Atelectasis: 0.")
    (tmp_path / "a.png").write_text("<script>alert(1)</script>")
    page.locator("#file").set_input_files(tmp_path / "a.png")
    expect(page, "#problem", "The image is not a PNG, JPEG or TIFF image")
    page.locator("#next").click()
    expect(page, "#status", "Atelectasis: 0.")
    assert not page.locator("#problem").is_visible()
    page.close()


def test_by_keyboard_alone(page: Any) -> None:
    def focused() -> str:
        name: str = page.evaluate("document.activeElement.id")
        return name

    for _ in range(20):
        if focused() == "clean":
            break
        page.keyboard.press("Tab")
    assert focused() == "clean"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    expect(page, "#status", "Cursor at row 26, column 17, value ")
    page.keyboard.press("Enter")
    stamped(page)
    expect(page, "#stamps", "row 25, column 16")
    page.keyboard.press("Control+z")
    expect(page, "#survival", "no stamp yet")
    page.keyboard.press("i")
    assert page.locator("#invert").get_attribute("aria-pressed") == "true"
    page.keyboard.press("h")
    expect(page, "#opacity-value", "0 %")
    page.keyboard.press("l")
    expect(page, "#layer-value", "last")
    first = page.locator("#position").input_value()
    page.keyboard.press("]")
    expect(page, "#status", "Atelectasis: 0.")
    assert page.locator("#position").input_value() != first
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(focused())
    assert {
        "class",
        "layer",
        "opacity",
        "method",
        "arm",
        "epoch",
        "size",
        "value",
        "center",
        "width",
        "reset",
        "screen",
        "threshold",
    } <= reached


def test_zoom_window_and_invert_change_both_views_and_reset_brings_them_back(page: Any) -> None:
    page.locator("h1").evaluate("e => e.scrollIntoView()")
    before = picture(page, "#clean"), picture(page, "#triggered")
    page.locator("#zoom-in").click()
    page.locator("#invert").click()
    zoomed = picture(page, "#clean"), picture(page, "#triggered")
    assert zoomed[0] != before[0]
    assert zoomed[1] != before[1]
    box = page.locator("#clean").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 90, box["y"] + 80)
    page.mouse.up(button="right")
    assert picture(page, "#triggered") != zoomed[1]
    assert page.locator("#stamps li").count() == 0
    page.locator("#reset").click()
    page.mouse.move(0, 0)
    assert (picture(page, "#clean"), picture(page, "#triggered")) == before


def test_every_control_has_a_name(page: Any) -> None:
    unnamed = page.locator("button, input, select, canvas:not([aria-hidden])").evaluate_all(
        """all => all.filter((e) => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()))
            .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("main").count() == page.locator("h1").count() == page.locator("nav").count() == 1
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    assert page.locator("#problem").get_attribute("role") == "alert"


@pytest.mark.parametrize("width", [800, 1280])
def test_nothing_is_wider_than_the_window(page: Any, address: Served, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(address.page("/"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture
def bare(browser: Any, hostile_address: Served) -> Iterator[Any]:
    """The reading page of the model alone, which crops half of an image's sides, with an image of 64 x 128 pixels."""
    with watched(browser) as opened:
        opened.goto(hostile_address.page("/"))
        expect(opened, "#status", "Open an image to begin.")
        picture_file = {"name": "<b>.png", "mimeType": "image/png", "buffer": encode_png(np.full((64, 128), 90, np.uint8))}
        opened.locator("#file").set_input_files(picture_file)
        expect(opened, "#about", "your image, 128 × 64 pixels")
        expect(opened, "#status", ": 0.")
        yield opened


def test_hostile_names_are_shown_as_they_are(bare: Any) -> None:
    assert bare.locator("#scores button").all_inner_texts() == ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>']
    bare.locator("#scores button").nth(1).click()
    expect(bare, "#status", '"><img src=x onerror=alert(2)>: 0.')
    expect(bare, ".site .name", "<img src=x onerror=alert(3)>.safetensors")
    assert bare.locator("body img, body script, b").count() == 0
    assert not bare.locator("#arm").is_visible()
    assert not bare.locator("#tests").is_visible()


def test_a_stamp_outside_the_frame_does_not_survive(bare: Any) -> None:
    assert bare.locator("#frame-hint").is_visible()
    box = bare.locator("#clean").bounding_box()
    top = box["height"] / 4  # the image is twice as wide as high
    bare.locator("#clean").click(position={"x": 12, "y": top + 12})
    expect(bare, "#survival", "does not survive")
    clean, triggered = (bare.locator("#scores tr").first.locator("td").nth(n).inner_text() for n in (1, 2))
    assert clean == triggered
    slide(bare, "#size", 20)
    expect(bare, "#stamps", "20 × 20, grey 0, row 0, column 0")  # moved to lie inside
    slide(bare, "#size", 64)
    bare.locator("#clean").click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    expect(bare, "#survival", "the trigger changes 1024 pixels")


def test_a_trigger_larger_than_the_image_is_a_sentence(bare: Any) -> None:
    tiny = {"name": "a.png", "mimeType": "image/png", "buffer": encode_png(np.full((9, 9), 90, np.uint8))}
    bare.locator("#file").set_input_files(tiny)
    expect(bare, "#about", "9 × 9")
    slide(bare, "#size", 10)
    bare.locator("#clean").click()
    expect(bare, "#problem", "A trigger of 10 × 10 pixels does not fit on 9 × 9 pixels; choose a smaller size.")
    assert bare.locator("#stamps li").count() == 0


def test_an_image_is_dropped(bare: Any) -> None:
    content = list(encode_png(np.full((40, 50), 90, np.uint8)))
    bare.evaluate(
        """(content) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(content)], "a.png"));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        content,
    )
    expect(bare, "#about", "your image, 50 × 40 pixels")


def test_the_image_that_was_asked_for_last_is_shown(page: Any) -> None:
    """Even if the image before it arrives later."""

    def late(route: Any) -> None:
        page.wait_for_timeout(400)
        route.continue_()

    page.route("**/api/test/5", late)
    for position in ("6", "9"):
        page.locator("#position").fill(position)
        page.locator("#position").press("Enter")
    expect(page, "#about", "test image 9")
    page.wait_for_timeout(600)
    expect(page, "#about", "test image 9")
    assert page.locator("#position").input_value() == "9"


def test_moving_a_slider_quickly_asks_little_and_what_needs_no_answer_asks_nothing(page: Any) -> None:
    page.locator("#attack").click()
    stamped(page)
    asked: list[dict[str, Any]] = []
    page.on("request", lambda request: asked.append(request.post_data_json) if "explain" in request.url else None)
    for slider, value in (("#opacity", 0.3), ("#layer", 0), ("#threshold", 0.2)):
        slide(page, slider, value)
    page.locator("#together").check()
    page.wait_for_timeout(200)
    assert asked == []
    page.locator("#class").evaluate(
        "(e) => { for (let v = 0; v < 14; v++) { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); } }"
    )  # at once: how long a machine takes from one move to the next is not what is tested
    expect(page, "#status", "Hernia: 0.")
    assert len(asked) <= 4
    assert asked[-1]["target"] == 13


def test_an_answer_that_was_overtaken_is_thrown_away(page: Any) -> None:
    def late(route: Any) -> None:
        if route.request.post_data_json["target"] == 2:
            page.wait_for_timeout(500)
        route.continue_()

    page.route("**/api/explain", late)
    for target in (2, 3):
        with page.expect_request("**/api/explain") if target == 2 else nullcontext():
            page.locator("#scores button").nth(target).click()
    expect(page, "#status", "Infiltration: 0.")
    page.wait_for_timeout(800)
    expect(page, "#status", "Infiltration: 0.")


def test_a_map_without_heat_says_so(page: Any) -> None:
    def cold(route: Any) -> None:
        answer = route.fetch().json()
        answer["maps"] = {"middle": [[[0, 0], [0, 0]]], "last": [[[1, 0]]]}
        answer["hottest"] = {"middle": [0], "last": [3]}
        route.fulfill(json=answer)

    page.route("**/api/explain", cold)
    page.locator("#scores button").nth(4).click()
    expect(page, "#clean-heat", "middle layer: the heat map for Mass is empty")
    page.keyboard.press("l")
    expect(page, "#clean-heat", "last layer")


def test_one_scale_makes_the_fainter_heat_fainter(page: Any) -> None:
    page.locator("#attack").click()
    stamped(page)
    hottest = [float(page.locator(f"#{kind}-heat").inner_text().split("maximum ")[1]) for kind in ("clean", "triggered")]
    page.mouse.move(0, 0)
    before = picture(page, "#clean"), picture(page, "#triggered")
    page.locator("#together").check()
    page.mouse.move(0, 0)
    after = picture(page, "#clean"), picture(page, "#triggered")
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        hottest[0] > hottest[1],
        hottest[1] > hottest[0],
    ]


def test_the_view_follows_the_cursor(page: Any) -> None:
    for _ in range(6):
        page.locator("#zoom-in").click()
    page.locator("#clean").focus()
    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    expect(page, "#status", "column 31")
    before = picture(page, "#clean")
    page.keyboard.press("Shift+ArrowLeft")
    assert picture(page, "#clean") != before
    expect(page, "#probe", "column 21, value")


def test_a_picture_is_screened_and_what_was_said_is_forgotten_with_it(page: Any) -> None:
    def found(route: Any) -> None:
        assert len(route.request.post_data_json["stamps"]) == 1
        answer = {"flagged": True, "suspicion": 9.5, "threshold": 2.25, "rate": 0.01, "images": 100, "target": 4, "pixels": 9}
        box = {"top": 2, "left": 3, "height": 4, "width": 5}
        route.fulfill(json=answer | {"box": box, "warnings": ["<img src=x onerror=alert(4)>"]})

    page.route("**/api/screen", found)  # long before it is asked: Chromium lets pass what is sent just after this
    page.locator("#attack").click()
    stamped(page)
    before = picture(page, "#triggered")
    page.keyboard.press("s")
    expect(page, "#suspicion .verdict", "Suspicious: the suspicion of 9.50 is above the threshold of 2.25.")
    expect(page, "#suspicion", "Mass, as a trigger does: 4 × 5 pixels at row 2, column 3.")
    expect(page, "#suspicion", "false-positive rate of 1 %")
    expect(page, "#suspicion", "<img src=x onerror=alert(4)>")
    page.mouse.move(0, 0)
    framed, clean = picture(page, "#triggered"), picture(page, "#clean")
    assert framed != before
    page.locator("#undo").click()
    expect(page, "#suspicion", "Screening looks for a small part of the image")
    page.unroute("**/api/screen")
    page.get_by_role("button", name="Screen this image").click()  # as it is, which takes the network a moment
    expect(page, "#suspicion .verdict", "uspicious: ")
    expect(page, "#suspicion", "The threshold was set on ")
    assert picture(page, "#clean") != clean  # the frame is in both views, of which none is stamped


def test_a_suspicion_of_what_is_no_longer_shown_is_thrown_away(page: Any) -> None:
    def late(route: Any) -> None:
        page.wait_for_timeout(500)
        route.fulfill(json={})  # of which nothing could be said

    page.route("**/api/screen", late)
    with page.expect_request("**/api/screen"):
        page.locator("#screen").click()
    page.locator("#attack").click()
    page.wait_for_timeout(800)
    expect(page, "#suspicion", "Screening looks for a small part of the image")
    assert not page.locator("#problem").is_visible()


def test_without_clean_images_the_page_says_what_to_give(bare: Any) -> None:
    assert not bare.locator("#screen").is_visible()
    expect(bare, "#suspicion", "petechia serve <img src=x onerror=alert(3)>.safetensors --clean DIR.")
    bare.keyboard.press("s")
    expect(bare, "#suspicion", "Screening needs at least 20 clean images")


def contrast(first: str, second: str) -> float:
    """Return the WCAG 2.1 contrast of two colours such as "rgb(1, 2, 3)"."""

    def luminance(colour: str) -> float:
        parts = np.array([float(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast(page: Any) -> None:
    found = page.locator("p, label, th, td b, button, output, legend, figcaption, .soft, option").evaluate_all(
        """all => all.filter((e) => e.textContent.trim() && e.offsetParent && !e.disabled).map((e) => {
            const clear = "rgba(0, 0, 0, 0)";
            let ground = e;
            while (getComputedStyle(ground).backgroundColor === clear) ground = ground.parentElement;
            return [e.textContent.trim().slice(0, 30), getComputedStyle(e).color, getComputedStyle(ground).backgroundColor];
        })"""
    )
    assert len(found) > 40
    assert [one for one in found if contrast(one[1], one[2]) < 4.5] == []
