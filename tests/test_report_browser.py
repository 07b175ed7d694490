"""report in a real browser, Chromium: layers, threshold, keys; no error, no request, open in under three seconds."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from report_project import THRESHOLD, Project, make_project, write

from evaluate.evaluate import main as evaluate
from report.report import main

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SECONDS = 3.0
PATIENCE = 120_000  # milliseconds: the machine may be busy with other things


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A finished project with two areas, and its page."""
    made = make_project(tmp_path_factory.mktemp("page"), names=("north", "south"), gap=100.0)
    assert main(made.options) == 0
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium, without a window; the tests are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=SIZES, scope="module")
def page(request, browser, project) -> Iterator[object]:
    """The page, opened at one of the sizes; the test fails on any error in it and on any request beyond this file."""
    width, height = SIZES[request.param]
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=request.param == "phone")
    context.set_default_timeout(PATIENCE)
    opened, problems = context.new_page(), []
    opened.on("console", lambda line: problems.append(line.text) if line.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    own = (project.results / "report.html").as_uri()
    opened.on(
        "request", lambda asked: None if asked.url.startswith((own, "data:", "blob:")) else problems.append(asked.url)
    )
    opened.goto(own)
    opened.wait_for_selector("html[data-ready=yes]")
    yield opened
    assert problems == []
    context.close()


def set_threshold(page, threshold):
    """Move the slider to a threshold as a hand would; what the page then shows."""
    data = json.loads(page.locator("#page-data").text_content())
    page.evaluate(
        """index => {
          const slider = document.getElementById("threshold");
          slider.value = String(index);
          slider.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        data["thresholds"].index(threshold),
    )
    page.wait_for_function(
        "value => document.getElementById('threshold-value').textContent === value", arg=f"{threshold:g}"
    )
    names = ("iou", "f1", "precision", "recall")
    return {name: page.locator(f"[data-score={name}]").text_content() for name in names}


def evaluated(project, threshold, folder):
    """What evaluate says of masks of that threshold."""
    for path in (project.results / "probabilities").glob("*.tif"):
        with rasterio.open(path) as src:
            mask = np.where(src.read(1) >= threshold, 255, 0).astype(np.uint8)
            corner, valid = (src.transform.c, src.transform.f), src.dataset_mask() > 0
        write(folder / "masks" / path.name, mask, corner, valid=valid)
    dst = folder / "metrics.json"
    assert evaluate([str(folder / "masks"), str(project.data / "val_masks"), str(dst), *project.options]) == 0
    return json.loads(dst.read_text())


def pixels_of(page, name):
    """How many cells of a layer are painted, by colour, as the map holds them."""
    return page.evaluate(
        """name => {
          const [plot] = ["map-left", "map-right"].map((id) => Bokeh.documents[0].get_model_by_name(id))
            .filter((one) => one.renderers.some((layer) => layer.name === name));
          const layer = plot.renderers.find((one) => one.name === name), found = {};
          for (const colour of layer.data_source.data.image[0]) found[colour] = (found[colour] || 0) + 1;
          return { visible: layer.visible, alpha: layer.glyph.global_alpha.value, found };
        }""",
        name,
    )


def test_it_fits_the_screen(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("#failure").is_hidden()


def test_it_takes_less_than_three_seconds_to_open(browser, project):
    """Seconds of the processor, as the clock's depend on what else the machine does."""
    machine = browser.new_browser_cdp_session()

    def used():
        processes = machine.send("SystemInfo.getProcessInfo")["processInfo"]
        return sum(process["cpuTime"] for process in processes if process["type"] == "renderer")

    opened = browser.new_page()
    opened.set_default_timeout(PATIENCE)
    before = used()
    opened.goto((project.results / "report.html").as_uri())
    opened.wait_for_selector("html[data-ready=yes]")
    assert 0 < used() - before < SECONDS
    opened.close()


def test_the_slider_changes_the_scores_to_what_evaluate_computes(page, project, tmp_path):
    own = json.loads((project.results / "metrics.json").read_text())
    for threshold in (0.3, 0.7, THRESHOLD):
        wanted = own if threshold == THRESHOLD else evaluated(project, threshold, tmp_path / str(threshold))
        shown = set_threshold(page, threshold)
        assert shown == {name: f"{wanted[name]:.3f}" for name in shown}
        for count in ("tp", "fp", "fn"):
            assert page.locator(f"[data-count={count}]").text_content() == f"{wanted['counts'][count]:,} px"


def test_the_slider_changes_mask_errors_and_frames(page):
    page.locator("#show-mask").check()
    picture = "id => document.getElementById(id).toDataURL()"
    set_threshold(page, 0.3)
    mask, errors, frame = pixels_of(page, "mask"), pixels_of(page, "errors"), page.evaluate(picture, "frame-0")
    set_threshold(page, 0.9)
    assert pixels_of(page, "mask")["found"]["0"] > mask["found"]["0"]
    assert pixels_of(page, "errors")["found"] != errors["found"]
    assert page.evaluate(picture, "frame-0") != frame
    page.locator("#own").click()
    page.wait_for_function("own => document.getElementById('threshold-value').textContent === own", arg=str(THRESHOLD))


def test_layers_can_be_switched_and_faded(page):
    page.locator("#show-labels").check()
    assert pixels_of(page, "labels")["visible"]
    page.locator("#show-labels").uncheck()
    assert not pixels_of(page, "labels")["visible"]
    page.locator("#show-probability").check()
    page.locator("#opacity-probability").fill("20")
    shown = pixels_of(page, "probability")
    assert (shown["visible"], shown["alpha"]) == (True, 0.2)
    assert len(shown["found"]) > 10


def test_the_maps_move_together_by_key_and_button_and_show_all_again(page):
    ranges = """() => ["map-left", "map-right"].map((id) => Bokeh.documents[0].get_model_by_name(id))
      .map((plot) => [plot.x_range.start, plot.x_range.end, plot.y_range.start, plot.y_range.end])"""
    page.locator("#zoom-all").click()
    left, right = page.evaluate(ranges)
    assert left == right
    page.locator("#map-right").focus()
    for key in ("+", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    moved, other = page.evaluate(ranges)
    assert moved == other
    assert moved[1] - moved[0] == pytest.approx((left[1] - left[0]) / 1.5)
    assert moved[0] > left[0]
    page.locator("#zoom-out").click()
    page.locator("#zoom-all").click()
    assert page.evaluate(ranges)[0] == pytest.approx(left)


def test_another_area_can_be_chosen(page):
    assert page.locator("#map-words").text_content().startswith("north")
    page.locator("#place").select_option("1")
    page.wait_for_function("() => document.getElementById('map-words').textContent.startsWith('south')")
    page.locator("#show-labels").check()
    assert sum(pixels_of(page, "labels")["found"].values()) == 64 * 96


def test_every_control_can_be_reached_by_keyboard(page):
    wanted = set(page.evaluate("() => [...document.querySelectorAll('input, select, button')].map((one) => one.id)"))
    seen = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert wanted <= seen
    assert {"map-left", "map-right"} <= seen


def test_what_is_in_names_is_shown_and_not_run(browser, tmp_path):
    evil = "<img src=x onerror=window.hit=1>"
    project = make_project(
        tmp_path, names=(evil,), band_names=(evil, "</script><script>window.hit=1</script>", "blue"), scored=False
    )
    assert main(project.options) == 0
    opened = browser.new_page()
    opened.set_default_timeout(PATIENCE)
    opened.goto(Path(project.results / "report.html").as_uri())
    opened.wait_for_selector("html[data-ready=yes]")
    assert opened.evaluate("window.hit") is None
    assert opened.locator("h1").text_content() == evil
    opened.close()
