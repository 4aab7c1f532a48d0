"""The pages in a real browser, as a reader would use them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petechia.data.images import encode_png
from tests.data.test_dicom import RAMP, made, written

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The reading page with its first image; no error and nothing forbidden may happen on it."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(f"{address}/read")
    expect(opened, "#status", "Atelectasis: 0.")
    yield opened
    opened.close()
    assert said == []


def expect(page: Any, selector: str, text: str) -> None:
    playwright.expect(page.locator(selector)).to_contain_text(text)


def picture(page: Any, canvas: str) -> bytes:
    """What a canvas shows."""
    shown: bytes = page.locator(canvas).screenshot()
    return shown


def state(page: Any) -> tuple[bytes, str, str]:
    """What a reader sees of the answer."""
    return picture(page, "#triggered"), page.locator("#scores").inner_text(), page.locator("#status").inner_text()


def slide(page: Any, slider: str, value: float) -> None:
    page.locator(slider).evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); }", value)


def stamped(page: Any) -> None:
    expect(page, "#status", "triggered.")


def test_the_study_page_is_the_report(browser: Any, address: str) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(address)
    assert page.locator("h1").inner_text() == "Backdoor attack on a radiograph classifier"
    assert page.locator("table").count() >= 3
    assert page.locator("img").evaluate_all("all => all.every((one) => one.complete && one.naturalWidth > 0)")
    page.get_by_role("link", name="Reading").click()
    expect(page, "#status", "Atelectasis: 0.")
    page.close()
    assert said == []


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
    assert page.locator(".score.reported").count() == 28
    slide(page, "#threshold", 1)
    assert page.locator(".score.reported").count() == 0


@pytest.mark.parametrize("kind", ["png", "dcm"])
def test_an_image_is_uploaded_and_read(page: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encode_png(PIXELS) if kind == "png" else written(made(RAMP, PhotometricInterpretation="MONOCHROME1")))
    with page.expect_response("**/api/explain"):
        page.locator("#file").set_input_files(path)
    expect(page, "#findings", "")
    assert not page.locator("#attack").is_visible()
    page.locator("#clean").click()
    stamped(page)
    if kind == "dcm":
        assert page.locator("#center-value").inner_text().startswith("-")  # turned round, in the file's own unit


def test_a_bad_upload_is_a_sentence_and_the_page_goes_on(browser: Any, address: str, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(f"{address}/read")
    expect(page, "#status", "Atelectasis: 0.")
    (tmp_path / "a.png").write_text("<script>alert(1)</script>")
    page.locator("#file").set_input_files(tmp_path / "a.png")
    expect(page, "#problem", "The image is not a PNG or JPEG image")
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
    expect(page, "#status", "Cursor at row 26, column 17.")
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
def test_nothing_is_wider_than_the_window(page: Any, address: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def contrast(first: str, second: str) -> float:
    """WCAG 2.1, between two colours as in "rgb(1, 2, 3)"."""

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
