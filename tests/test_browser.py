"""The page in a browser: everything is drawn, plays, sorts, fits, and nothing is fetched."""

import base64
import json
import math
import re
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from techloop.artifacts import write_json
from tests.helpers.report import CELLS, EVALUATED, build, make_finished, write_study_metrics

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--enable-blink-features=ComputedAccessibilityInfo",
)
MORE = {  # cells besides those of the finished world: their length, and a ratio of their paths
    "kl-mean-1": (1, 9.5),
    "kl-mean-60": (60, 10.25),
    "wae-mean-1": (1, math.nan),
}
# Records every sound that starts, unknown to the page.
LISTEN = """
window.started = [];
window.encoded = (samples) => new Uint8Array(samples.buffer).toBase64();
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...when) {
  const { buffer, loop, loopStart, loopEnd, context } = this;
  if (context instanceof AudioContext) started.push({
    samples: encoded(buffer.getChannelData(0)), channels: buffer.numberOfChannels,
    rate: buffer.sampleRate, context: context.sampleRate,
    loop, loopStart, loopEnd, when, buffer,
  });
  return start.apply(this, when);
};
"""
PLAYED = "() => { const { buffer, ...rest } = started.at(-1); return rest; }"
# The last sound as an offline context plays it, over twice its length.
RENDER = """async () => {
  const { buffer, loop, loopStart, loopEnd } = started.at(-1);
  const context = new OfflineAudioContext(1, 2 * buffer.length, buffer.sampleRate);
  const source = new AudioBufferSourceNode(context, { buffer, loop, loopStart, loopEnd });
  source.connect(context.destination);
  source.start();
  return encoded((await context.startRendering()).getChannelData(0));
}"""
# Text whose contrast to what is behind it is below 4.5, as (text, contrast).
FAINT = """() => {
  const rgba = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((v) =>
      (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    throw new Error("nothing is behind");
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = rgba(element.closest("svg") ? style.fill : style.color);
    const [dark, light] = [luminance(ink), luminance(behind(element))].sort((a, b) => a - b);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < 4.5) faint.push([node.data.trim(), contrast]);
  }
  return faint;
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`index.html` of a finished world with five cells of the latent VAE, smoothness measured."""
    top = tmp_path_factory.mktemp("browser")
    make_finished(top)
    ratios = dict(zip(CELLS, (2.5, 30.0), strict=True))
    for cell, (length, ratio) in MORE.items():
        folder = top / "data" / "latent_vae" / cell
        shutil.copytree(top / "data" / "latent_vae" / CELLS[0], folder)
        config = {"regulariser": cell.split("-")[0], "objective": "posterior", "length": length}
        write_json(folder / "config.json", {"cell": config})
        ratios[cell] = ratio
    for cell, ratio in ratios.items():
        file = top / "reports" / "smoothness" / cell / "metrics.json"
        write_study_metrics(file, "evaluate_smoothness", perceptual_path_ratio=ratio)
    build(top, latent_cells=list(ratios))
    return top / "reports" / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if not program:
        pytest.skip("no browser: `apt install chromium`, as .ci/run does")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Opened:
    """A page that is open, with what it logged and requested."""

    def __init__(self, context: BrowserContext, file: Path) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda line: self.complaints.append(f"{line.type}: {line.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_function(
            "[...document.querySelectorAll('.vega')].every((place) => place.querySelector('svg'))"
        )


@pytest.fixture(scope="module")
def opened(browser: Browser, page_file: Path) -> Iterator[Opened]:
    """The page on a desktop, in the light, offline."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    context.add_init_script(LISTEN)
    context.set_offline(True)
    yield Opened(context, page_file)
    context.close()


def test_nothing_is_fetched_and_nothing_is_logged(opened: Opened, page_file: Path) -> None:
    opened.page.wait_for_load_state("networkidle")
    assert [u for u in opened.requests if not u.startswith("data:")] == [page_file.as_uri()]
    assert opened.complaints == []


def test_the_policy_of_the_page_forbids_requests(browser: Browser, page_file: Path) -> None:
    context = browser.new_context()
    page = Opened(context, page_file).page
    forbidden = page.evaluate(
        """async () => {
          const directives = [];
          const note = (event) => directives.push(event.effectiveDirective);
          document.addEventListener("securitypolicyviolation", note);
          await fetch("https://localhost:1/").catch(() => {});
          const image = new Image();
          const failed = new Promise((done) => (image.onerror = done));
          image.src = "https://localhost:1/x";
          await failed;
          return directives;
        }"""
    )
    assert forbidden == ["connect-src", "img-src"]
    context.close()


def test_every_chart_is_drawn(opened: Opened) -> None:
    places = opened.page.locator(".vega")
    specs = opened.page.locator('.chart script[type="application/json"]')
    assert places.count() == specs.count() == 5
    for place, spec in zip(places.all(), specs.all(), strict=True):
        box = place.locator("svg").bounding_box()
        assert box
        assert box["width"] > 200
        assert box["height"] > 150
        rows = max(json.loads(spec.text_content() or "")["datasets"].values(), key=len)
        titles = {row["title"] for row in rows}
        lines = place.locator(".mark-line path")
        drawn = [line for line in lines.all() if "L" in (line.get_attribute("d") or "")]
        several = [t for t in titles if len([r for r in rows if r["title"] == t]) > 1]
        assert len(drawn) == len(several)
        assert place.get_attribute("role") == "graphics-document"
        assert len(place.get_attribute("aria-label") or "") > 20


def test_training_is_thin_and_each_cell_has_its_colour(opened: Opened) -> None:
    lines = opened.page.locator("#audio-vae .vega").first.locator(".mark-line path")
    look = (
        "(lines) => lines.map((l) => [getComputedStyle(l).stroke, l.getAttribute('stroke-width')])"
    )
    assert lines.evaluate_all(look) == [
        ["rgb(0, 114, 178)", "1"],
        ["rgb(0, 114, 178)", "2"],
        ["rgb(213, 94, 0)", "1"],
        ["rgb(213, 94, 0)", "2"],
    ]


def test_a_chart_names_the_nearest_point(opened: Opened) -> None:
    page = opened.page
    page.locator("#audio-vae .vega").first.hover(position={"x": 200, "y": 60})
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    text = tooltip.inner_text()
    assert "undefined" not in text
    assert text.split("\n")[0] in {
        f"{c}, {s}" for c in ("kl", "wae") for s in ("training", "validation")
    }
    assert "loops seen" in text
    page.mouse.move(0, 0)


def test_a_legend_hides_and_shows(opened: Opened) -> None:
    page = opened.page
    button = page.locator("#audio-vae .legend button", has_text="wae")
    lines = page.locator("#audio-vae .vega").first.locator(".mark-line path")
    for pressed, count in (("false", 2), ("true", 4)):
        button.focus()
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-pressed") == pressed
        page.wait_for_function(
            "([n]) => document.querySelectorAll('#audio-vae .vega')[0]"
            ".querySelectorAll('.mark-line path').length === n",
            arg=[count],
        )
        assert lines.count() == count


def test_every_picture_is_decoded(opened: Opened) -> None:
    widths = opened.page.locator("img").evaluate_all(
        "(images) => Promise.all(images.map(async (i) => { i.loading = 'eager'; await i.decode(); "
        "return i.naturalWidth; }))"
    )
    assert widths == [900] * sum(map(len, EVALUATED.values()))


def test_every_player_plays_its_file_to_the_sample(opened: Opened, page_file: Path) -> None:
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    buttons = page.locator("button[data-sound]").all()
    assert len(buttons) == 2 * 8 + 2 * 2
    for button in buttons:
        button.dispatch_event("click")
        assert button.get_attribute("aria-pressed") == "true"
        assert page.locator("button[aria-pressed=true][data-sound]").count() == 1, "one at a time"
        played = page.evaluate(PLAYED)
        stage, rest = (button.get_attribute("data-sound") or "").split("-", 1)
        folder = page_file.parent / stage.removeprefix("evaluate_")
        cell = next(cell for cell in CELLS if rest.startswith(cell))
        name = rest.removeprefix(cell + "-").removesuffix("-wav") + ".wav"
        with wave.open(str(folder / cell / name)) as file:
            rate, frames = file.getframerate(), file.getnframes()
            samples = np.frombuffer(file.readframes(frames), "<i2") / 32768
        assert (played["rate"], played["context"], played["channels"]) == (rate, rate, 1)
        assert played["when"] == [], "at once, from the first sample"
        np.testing.assert_array_equal(decoded(played["samples"]), samples)
        assert np.sqrt(np.mean(np.square(samples))) > 0.01
        assert played["loop"] == (button.get_attribute("data-loop") == "1")
        # From the first sample to the last: no points set are those of the whole buffer.
        assert (played["loopStart"], played["loopEnd"]) == (0, 0)
    buttons[-1].click()
    assert page.locator("button[aria-pressed=true][data-sound]").count() == 0


def test_a_loop_repeats_and_a_piece_ends(browser: Browser, page_file: Path) -> None:
    context = browser.new_context()
    context.add_init_script(LISTEN)
    page = Opened(context, page_file).page
    for sound, loops in (
        ("evaluate_generation-kl-mean-16-loop-0-wav", True),
        ("evaluate_smoothness-kl-mean-16-morph-wav", False),
    ):
        page.locator(f"[data-sound={sound}]").dispatch_event("click")
        samples = decoded(page.evaluate(PLAYED)["samples"])
        rendered = decoded(page.evaluate(RENDER))
        np.testing.assert_array_equal(rendered[: samples.size], samples)
        np.testing.assert_array_equal(rendered[samples.size :], samples if loops else 0 * samples)
    context.close()


def decoded(samples: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(samples), "<f4")


def column(page: Page, index: int) -> list[str]:
    return page.locator(f".sortable tbody tr > :nth-child({index + 1})").all_inner_texts()


def sorts(page: Page) -> list[str | None]:
    return [
        head.get_attribute("aria-sort") for head in page.locator(".sortable th[scope=col]").all()
    ]


def test_the_table_sorts_by_number_both_ways(opened: Opened) -> None:
    page = opened.page
    heads = page.locator(".sortable th[scope=col]").all()
    at = {re.split("[\xa0\n]", head.inner_text())[0]: i for i, head in enumerate(heads)}
    ratio, length, name = at["Perceptual path ratio"], at["Points per loop"], at["Cell"]
    none: list[str | None] = [None] * len(heads)
    assert sorts(page) == none

    def press(index: int) -> None:
        heads[index].locator("button").focus()
        page.keyboard.press("Enter")

    press(ratio)
    assert column(page, ratio) == ["2.5", "9.5", "10.25", "30", "–"]
    assert sorts(page) == [*none[:ratio], "ascending", *none[ratio + 1 :]]
    press(ratio)
    assert column(page, ratio) == ["30", "10.25", "9.5", "2.5", "–"]
    assert sorts(page)[ratio] == "descending"
    press(length)
    assert column(page, length) == ["1", "1", "4", "16", "60"]
    assert sorts(page) == [*none[:length], "ascending", *none[length + 1 :]]
    heads[name].locator("button").click()
    assert column(page, name) == sorted(
        [*CELLS, *MORE], key=lambda c: (c[:8], int(c[8:].strip("-")))
    )
    heads[name].locator("button").click()
    assert column(page, name)[0] == "wae-mean-4"


def test_a_phone_shows_all_of_it(browser: Browser, page_file: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="light")
    page = Opened(context, page_file).page
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((e) =>
          !e.closest(".scroll, nav ul, svg *, #vg-tooltip-element") &&
          e.getClientRects().length && e.getBoundingClientRect().right > 360.5
        ).map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert wide == []
    for place in page.locator(".vega").all():
        box = place.locator("svg").bounding_box()
        assert box
        assert 280 < box["width"] <= 340
    context.close()


def test_charts_follow_the_width(browser: Browser, page_file: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = Opened(context, page_file).page
    page.set_viewport_size({"width": 600, "height": 740})
    page.wait_for_function(
        "document.querySelector('.vega svg').getBoundingClientRect().width !== 320"
    )
    place = page.locator(".vega").first
    boxes = [b for b in (place.bounding_box(), place.locator("svg").bounding_box()) if b]
    assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=8)
    context.close()


@pytest.mark.parametrize(
    ("media", "scheme", "paper"),
    [
        ("screen", "light", "rgb(250, 249, 246)"),
        ("screen", "dark", "rgb(18, 19, 22)"),
        ("print", "dark", "rgb(250, 249, 246)"),
    ],
)
def test_text_is_readable(
    browser: Browser,
    page_file: Path,
    media: Literal["screen", "print"],
    scheme: Literal["light", "dark"],
    paper: str,
) -> None:
    context = browser.new_context()
    page = Opened(context, page_file).page
    page.emulate_media(media=media, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert page.evaluate(FAINT) == []
    context.close()


def test_all_that_acts_is_reached_by_keyboard_and_has_a_name(
    browser: Browser, page_file: Path
) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = Opened(context, page_file).page
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    acting = page.locator("a[href], button, summary, [tabindex='0']")
    count = acting.count()
    page.evaluate(
        """() => {
          window.reached = new Set();
          document.addEventListener("focusin", (e) => reached.add(e.target));
        }"""
    )
    for _ in range(count):
        page.keyboard.press("Tab")
    missed = acting.evaluate_all(
        "(all) => all.filter((e) => !reached.has(e)).map((e) => e.outerHTML)"
    )
    assert missed == []
    nameless = "(all) => all.filter((e) => !e.computedName.trim()).map((e) => e.outerHTML)"
    assert acting.evaluate_all(nameless) == []
    names = acting.evaluate_all("(all) => all.map((e) => e.computedName)")
    assert {"Listen", "Play Loop 1", "Cell", "kl-mean-16", "Metrics"} <= set(names)
    context.close()
