"""A page is one harmless file, and in a browser it does what it should."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gia_cli.pages.page import Entry, Facts, Layer, Page, Table, Tile, Timings, View, write_page
from tests.pages.browser import chromium

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
SIZE = 300, 200


def jpeg(color: tuple[int, int, int], size: tuple[int, int] = SIZE) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, "JPEG")
    return data.getvalue()


def layer(caption: str, color: tuple[int, int, int]) -> Layer:
    return Layer(caption, jpeg(color, (30, 20)), (Tile(jpeg(color), 0, 0, *SIZE),))


RED, BLUE = (200, 20, 20), (20, 20, 200)
VIEW = View(*SIZE, (layer("before", RED), layer("after", BLUE)))
TABLE = Table(
    "Scores",
    ["row", "PSNR"],
    [["a", "9.5 ±0.1"], ["b", "n/a"], ["c", "10.2 ±0.1"], ["d", "\N{MINUS SIGN}1"]],
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    entries = [
        Entry("one.ARW", "written", facts=(Facts("Photo", (("lens", HOSTILE),)),), view=VIEW),
        Entry(HOSTILE, "failed", error="It is broken.", hint="Copy it again.", notes=(HOSTILE,)),
        Entry("three.ARW", "written", timings=Timings((("network", 2.0),)), view=VIEW),
    ]
    write_page(path, Page(f"page {HOSTILE}", before=(TABLE,), after=(TABLE,)), entries)
    return path


class Elements(HTMLParser):
    """All elements with their attributes, and the texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}))

    def handle_data(self, data: str) -> None:
        number = len(self.found) - 1
        self.texts[number] = self.texts.get(number, "") + data


def test_it_is_one_file_whose_ids_are_unique(path: Path) -> None:
    elements = Elements(path.read_text("utf-8"))
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10
    for tag, attributes in elements.found:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], attributes


def test_what_strangers_wrote_is_inert_text(path: Path) -> None:
    text = path.read_text("utf-8")
    assert "<script>alert" not in text and "<img src=x" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 5


def test_the_policy_allows_our_script_and_style_only(path: Path) -> None:
    elements = Elements(path.read_text("utf-8"))
    (policy,) = [
        attributes["content"] or ""
        for _, attributes in elements.found
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for number, (tag, attributes) in enumerate(elements.found):
        if tag == "style" or (tag == "script" and "type" not in attributes):
            digest = hashlib.sha256(elements.texts[number].encode()).digest()
            assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_the_pictures_decode_to_one_size(path: Path) -> None:
    elements = Elements(path.read_text("utf-8"))
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(elements.texts[number]))).size
        for number, (_, attributes) in enumerate(elements.found)
        if attributes.get("type") == "image/jpeg"
    ]
    assert sizes == [SIZE] * 4


def test_large_pictures_are_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 2_000_001, np.uint8).tobytes()
    view = View(1, 1, (Layer("a", b"", (Tile(noise, 0, 0, 1, 1),)),))
    write_page(tmp_path / "p.html", Page("p"), [Entry("e", view=view)])
    (text,) = re.findall(r'data-place="0 0 1 1">([^<]*)<', (tmp_path / "p.html").read_text("utf-8"))
    assert base64.b64decode(text) == noise


def test_control_characters_and_odd_names_are_spelled_out(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", Page("a\u202eb\udcff"))
    text = (tmp_path / "p.html").read_text("utf-8")
    assert "a\\u202eb\\udcff" in text and "\u202e" not in text


def test_templates_style_and_script_are_in_the_package() -> None:
    """Hatchling takes all files of the package that git does not ignore."""
    names = {each.name for each in resources.files("gia_cli.pages").iterdir()}
    assert names >= {"page.css", "page.js", "templates"}
    root = Path(__file__).parents[2]
    built = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
    assert built["targets"]["wheel"]["packages"] == ["gia_cli"]
    ignored = (root / ".gitignore").read_text("utf-8")
    assert not re.search(r"html|css|\*\.js", ignored)


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Any, path: Path) -> Iterator[Any]:
    tab = browser.new_page(viewport={"width": 1400, "height": 900}, has_touch=True)
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#left-pane[aria-busy=false]")
    tab.wait_for_selector("#right-pane[aria-busy=false]")
    yield tab
    assert said == []
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    tab.close()


def color_at(tab: Any, x: float, y: float) -> tuple[int, ...]:
    clip = {"x": x, "y": y, "width": 1, "height": 1}
    pixel = Image.open(io.BytesIO(tab.screenshot(clip=clip))).convert("RGB").getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def is_red(color: tuple[int, ...]) -> bool:
    return color[0] > color[2]


@pytest.mark.slow
def test_the_slider_moves_by_mouse_and_keys(tab: Any) -> None:
    box = tab.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 3
    at = [box["x"] + share * box["width"] for share in (0.3, 0.7)]
    assert [is_red(color_at(tab, x, middle)) for x in at] == [True, False]
    tab.mouse.move(box["x"] + box["width"] / 2, middle)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.9 * box["width"], middle)
    tab.mouse.up()
    assert [is_red(color_at(tab, x, middle)) for x in at] == [True, True]
    divider = tab.locator("#divider")
    before = int(divider.get_attribute("aria-valuenow"))
    divider.focus()
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("[")
    assert int(divider.get_attribute("aria-valuenow")) == before - 4
    tab.keyboard.press("Home")
    assert [is_red(color_at(tab, x, middle)) for x in at] == [False, False]


def touch(tab: Any, *steps: list[tuple[float, float]]) -> None:
    """Put fingers down, move them from step to step, and lift them."""
    session = tab.context.new_cdp_session(tab)
    for number, step in enumerate(steps):
        points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(step)]
        kind = "touchMove" if number else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.slow
def test_the_slider_and_the_zoom_work_by_touch(tab: Any) -> None:
    box = tab.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    divider, plane = tab.locator("#divider"), tab.locator("#left-pane .plane")
    touch(tab, [(x, y)], [(x - 40, y)], [(x - 100, y)], [(x - 200, y)])
    assert int(divider.get_attribute("aria-valuenow")) < 40
    before = plane.bounding_box()["width"]
    apart = [[(x - step, y), (x + step, y)] for step in (50, 70, 90, 100)]
    touch(tab, *apart)
    assert plane.bounding_box()["width"] == pytest.approx(2 * before, rel=0.2)


@pytest.mark.slow
def test_zoom_pan_photos_and_tables(tab: Any) -> None:
    tab.keyboard.press("1")
    assert tab.locator("#zoom").inner_text() == "100 %"
    plane = tab.locator("#left-pane .plane")
    assert plane.bounding_box()["width"] == pytest.approx(300)
    for _ in range(12):
        tab.keyboard.press("+")
    start = plane.bounding_box()["x"]
    box = tab.locator("#stage").bounding_box()
    tab.mouse.move(box["x"] + 80, box["y"] + 80)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 140, box["y"] + 80)
    tab.mouse.up()
    assert plane.bounding_box()["x"] == pytest.approx(start + 60, abs=1)
    tab.keyboard.press("0")
    assert tab.locator("#fit").get_attribute("aria-pressed") == "true"
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#message").inner_text() == "It is broken."
    assert tab.locator(".entry.current h2").inner_text() == HOSTILE
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#place").inner_text() == "3 / 3"
    head = tab.locator("table").first.locator("thead button").nth(1)
    names = tab.locator("table").first.locator("tbody th")
    head.click()
    assert names.all_inner_texts() == ["d", "a", "c", "b"]
    head.click()
    assert names.all_inner_texts() == ["c", "a", "d", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_at_any_width_by_day_and_night(tab: Any, scheme: str) -> None:
    tab.emulate_media(color_scheme=scheme)
    for width in (400, 1400):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        inner = tab.locator("#stage").bounding_box()
        assert inner["width"] > 0.6 * width and inner["height"] > 250
    lights = tab.evaluate(
        "['color', 'backgroundColor'].map(n => getComputedStyle(document.body)[n])"
    )
    ink, ground = (sum(map(int, re.findall(r"\d+", each)[:3])) for each in lights)
    assert (ink < ground) == (scheme == "light")
    assert abs(ink - ground) > 450
