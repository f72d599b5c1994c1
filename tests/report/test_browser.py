"""Pages in headless Chromium, as people with and without a mouse, and on a phone, read them.

Skipped without Playwright (`pip install playwright`) or Chromium; `.ci/run` installs them, and the
rules of axe-core.
"""

import shutil
import sys
from pathlib import Path

import course_runs
import numpy as np
import pytest
import sweeps

from cv_jax.__main__ import main
from cv_jax.course.chapters import CHAPTERS

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="chromium is not installed"),
]
SCHEMES, WIDTHS = ("light", "dark"), (390, 1280)
AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = ("run", "damaged", "sweep", "runs", "course")

# Contrast ratio (WCAG 2.2) of every element with text of its own, with its colours in the page.
CONTRAST = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const channel = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) =>
    0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((c, i) => a * c + (1 - a) * below[i]);
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 0 ? ground(element.parentElement) : over(own, ground(element.parentElement));
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const texts = [...element.childNodes].filter((x) => x.nodeType === 3 && x.data.trim());
    if (!texts.length || !element.getClientRects().length || element.tagName === "SCRIPT") continue;
    const style = getComputedStyle(element);
    const below = ground(element);
    const ink = parse(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [luminance(over(ink, below)), luminance(below)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), texts[0].data.trim().slice(0, 40)]);
  }
  return found;
}
"""


# Texts of figures that reach out of their picture, where they are cut off.
CUT_OFF = """
() => [...document.querySelectorAll("svg text")].filter((text) => {
  const [own, all] = [text, text.closest("svg")].map((x) => x.getBoundingClientRect());
  return own.left < all.left - 3 || own.right > all.right + 3
    || own.top < all.top - 3 || own.bottom > all.bottom + 3;
}).map((text) => text.textContent)
"""


@pytest.fixture(scope="module")
def pages(load_config, tmp_path_factory):
    """The pages of a trained run, a damaged one, a sweep, and several runs: name → file."""
    from cv_jax.training import experiment, loop

    folder = tmp_path_factory.mktemp("pages")
    config = load_config("lenet5", {"total_steps": 30, "mesh.devices": 1, "augment": "pad_crop(3)"})
    assert loop.train(experiment.build(config), folder / "run", "") == 0
    points = [{"kind": kind, "seed": seed} for kind in ("a" * 60, "b", "c") for seed in (0, 1)]
    points = sweeps.write(folder / "sweep", points)
    for point, accuracy in zip(points, (0.9, 0.1, 0.5, 0.7, 0.3), strict=False):
        sweeps.finish(folder / "sweep", point, accuracy)
    (folder / "sweep" / points[4].name / "summary.json").write_text("{")
    assert main(["report", str(folder / "run")]) == 0
    assert main(["report", str(folder / "sweep")]) == 1  # one trial is damaged, one not started
    trials = [str(folder / "sweep" / point.name) for point in points[:4]]
    assert main(["report", str(folder / "run"), *trials, "--out", str(folder / "runs")]) == 0
    (convolution,) = CHAPTERS[1].studies
    nets = {"lenet5": 0.9, "mlp_parameters": 0.8, "mlp_multiply_adds": 0.7}
    course_runs.write(folder, convolution, lambda own, seed: (nets[own["net"]], 0.99 - seed / 100))
    assert main(["course", "--out", str(folder), "--page_only"]) == 0
    return {
        "course": folder / "course.html",
        "run": folder / "run" / "report.html",
        "damaged": folder / "sweep" / points[4].name / "report.html",
        "sweep": folder / "sweep" / "report" / "report.html",
        "runs": folder / "runs" / "report.html",
    }


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, pages):
    """`opened(name, width, scheme)`: the page in the browser; nothing may leave it."""
    contexts, said, requests = [], [], []

    def open_page(name, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    files = [url for url in requests if not url.startswith("data:image/")]
    pages = ("report.html", "course.html")
    assert all(url.startswith("file:///") and url.endswith(pages) for url in files)
    assert len(files) == len(contexts)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_page_is_readable(opened, name, width, scheme):
    page = opened(name, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(x => x.complete && x.naturalWidth > 0)")
    found = page.evaluate(CONTRAST)
    assert len(found) > 20
    assert [row for row in found if row[0] < 4.5] == []
    assert page.evaluate(CUT_OFF) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(15, 20, 25)")


@pytest.mark.skipif(not AXE.is_file(), reason=f"axe-core is not installed in {AXE.parents[2]}")
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_no_violation(opened, name, width, scheme):
    page = opened(name, width, scheme)
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 15
    assert [
        (
            rule["impact"],
            rule["id"],
            rule["help"],
            [node["html"][:200] for node in rule["nodes"][:3]],
        )
        for rule in found["violations"]
    ] == []


def column(page, name, number):
    """The texts of a column, without empty ones."""
    cells = page.locator(f"[aria-label='{name}'] tbody tr > :nth-child({number})")
    return [text.strip() for text in cells.all_inner_texts() if text.strip()]


@pytest.mark.parametrize("key", [None, "Enter", "Space"])
def test_a_table_sorts_by_click_and_by_keyboard(opened, key):
    page = opened("sweep")
    button = page.get_by_role("button", name="test accuracy").last
    place = 1 + page.locator("[aria-label='Trials'] th").all_inner_texts().index("test accuracy")
    for order in ("ascending", "descending"):
        if key is None:
            button.click()
        else:
            button.focus()
            page.keyboard.press(key)
        values = [float(text.rstrip("%")) for text in column(page, "Trials", place)]
        assert values == sorted([90.0, 10.0, 50.0, 70.0], reverse=order == "descending")
        head = page.locator("[aria-label='Trials'] th").nth(place - 1)
        assert head.get_attribute("aria-sort") == order


def test_the_first_screen_of_a_chapter_has_claim_and_verdict(opened):
    page = opened("course")
    place = "document.querySelector('#chapter-convolution .verdict').getBoundingClientRect()"
    page.goto(page.url + "#chapter-convolution")
    assert 0 <= page.evaluate(f"{place}.top") < page.evaluate(f"{place}.bottom") < 900


def test_a_trial_is_a_link_to_its_page(opened):
    page = opened("sweep")
    address = page.locator("[aria-label='Trials'] a").first.evaluate("x => x.href")
    assert address.startswith("file:///")
    context = page.context.browser.new_context()
    trial = context.new_page()
    trial.goto(address)
    assert trial.locator("h1").inner_text().startswith("kind=")
    context.close()


def test_numbers_with_units_sort_by_size(opened):
    page = opened("runs")
    page.get_by_role("button", name="parameters").click()
    values = column(page, "Runs", 5)
    assert values == sorted(values, key=lambda text: float(text.split()[0]))
    assert np.all([text.endswith(" k") for text in values])
