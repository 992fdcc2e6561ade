"""A headless browser for the pages, and pages to open in it.

`FEWSEG_SCREENSHOTS` names the folder that takes pictures of what the browser showed; else they go to a temporary one.
"""

import itertools
import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # the benchmarks that the tests of the report invent

from fake_benchmark import add_films, add_pictures, fake_clicks, fake_run, fake_video
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


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory):
    """The folder for pictures of pages."""
    named = os.environ.get("FEWSEG_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session", params=SIZES)
def browser(request):
    """Headless Chromium with the size of a laptop or a phone; a skip that says what is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: no page is opened")
    programs = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("chromium or chromedriver is not installed: no page is opened")
    width, height = SIZES[request.param]
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},{height}")
    if request.param == "phone":  # no window is as narrow
        screen = {"width": width, "height": height, "pixelRatio": 1.0, "touch": False}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": screen})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    driver.size_name = request.param
    yield driver
    driver.quit()
