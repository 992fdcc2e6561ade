"""A headless browser for the pages, and pages to open in it.

`FEWSEG_SCREENSHOTS` names a folder that takes pictures of what the browser showed; without it none are made.
"""

import itertools
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # the benchmarks that the tests of the report invent

from chromium import missing, open_page, started
from fake_benchmark import add_films, add_pictures, fake_absent, fake_clicks, fake_run, fake_video
from fake_instances import fake_search

from fewseg.report import build_report
from fewseg.results import write_json, write_text

SIZES = {"laptop": (1280, 800), "phone": (360, 740)}


def _plan(out, reference):
    runs = [path.parent.name for path in out.glob("*/metrics.json")]
    write_json(out / "plan.json", {"n_folds": 4, "runs": runs, "compare": {"reference": reference}})
    write_text(out / "benchmark.yaml", "folds: [0, 1]\n")


def _semantic(out):
    """Two trainings and a method without one, on two folds, and each of them tested on another data set too."""
    for config, fold, n_points in itertools.product(("guided", "panet", "fgbg"), (0, 1), (1, 5, None)):
        told = {"train_dataset": "shapes5i", "train_task": "semantic"} if config != "fgbg" else {}
        add_pictures(fake_run(out, config, fold, n_points=n_points, **told))
        if n_points is None:
            fake_run(out, config, fold, n_shot=5, **told)
            fake_run(out, config, fold, dataset="voc400", **told)
    for config in ("guided", "panet"):
        add_pictures(fake_absent(out, config), first=100)
    _plan(out, "panet")


def _interactive(out):
    for config, fold in itertools.product(("guided", "guided+AJ"), (0, 1)):
        add_pictures(fake_clicks(out, config, fold))
        fake_run(out, config, fold, 1, 5, task="interactive", protocol="interactive-points")
        fake_run(out, config, fold, 1, None, task="interactive", protocol="interactive-points")
    _plan(out, "guided")


def _video(out):
    for n_points, (place, config) in itertools.product((1, None), enumerate(("guided", "osvos", "osvos+50"))):
        add_films(fake_video(out, config, 1, n_points), 1 + place, n_points=n_points)
    _plan(out, "osvos")


def _instance(out):
    for config, fold in itertools.product(("siamese", "random"), (0, 1)):
        for protocol in ("one-shot", "one-shot-base"):
            add_pictures(fake_search(out, config, fold, protocol))
    fake_search(out, "siamese", 0, n_shot=5)
    _plan(out, "random")


_REPORTS = {"semantic": _semantic, "interactive": _interactive, "video": _video, "instance": _instance}


@pytest.fixture(scope="session", params=_REPORTS)
def report(request, tmp_path_factory):
    """The page of a benchmark."""
    out = tmp_path_factory.mktemp("runs") / request.param
    out.mkdir()
    _REPORTS[request.param](out)
    return build_report(out)


@pytest.fixture(scope="session", params=SIZES)
def browser(request):
    """Headless Chromium with the size of a laptop or a phone; a skip that says what is missing."""
    pytest.importorskip("selenium", reason="selenium is not installed: no page is opened")
    if missing():
        pytest.skip(f"{' and '.join(missing())}: not installed, no page is opened")
    driver = started(*SIZES[request.param], phone=request.param == "phone")
    driver.size_name = request.param
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def opened(browser, report):
    """The page of a benchmark, opened once for all tests in one size, and pictures of it where they are asked for."""
    browser.get_log("browser")  # forgets what others said
    open_page(browser, report)
    assert worries(browser) == []
    browser.first_pictures = browser.execute_script("return document.querySelectorAll('.shown img').length")
    if os.environ.get("FEWSEG_SCREENSHOTS"):
        _photograph(browser, report.parent.name, Path(os.environ["FEWSEG_SCREENSHOTS"]))
    return browser


def _photograph(browser, kind, folder):
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{kind}-{browser.size_name}"
    browser.save_screenshot(str(folder / f"{name}-top.png"))
    for section in browser.find_elements("css selector", "section"):
        browser.execute_script("arguments[0].scrollIntoView(true)", section)
        browser.save_screenshot(str(folder / f"{name}-{section.get_attribute('id')[:40]}.png"))


def worries(browser):
    """What the page has told the console since the last time."""
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture
def page(opened):
    """The opened page as other tests left it: scrolled to its top, all folded, no filter, nothing told."""
    opened.execute_script(_RESET)
    yield opened
    assert worries(opened) == []


_RESET = """
for (const fold of document.querySelectorAll("details")) fold.open = false;
for (const box of document.querySelectorAll(".scroll")) box.scrollLeft = 0;
const changed = (one) => one.dispatchEvent(new Event("change", {bubbles: true}));
for (const one of document.querySelectorAll("form.filter select")) one.value = "";
for (const form of document.querySelectorAll("form.filter")) changed(form);
const [config, order, pictured, kind] =
  ["config", "order", "pictured", "class"].map((name) => document.querySelector(`.gallery [name=${name}]`));
config.selectedIndex = 0;
order.value = "list";
pictured.checked = false;
kind.value = "";
changed(config);
changed(kind);
window.scrollTo(0, 0);
"""
