"""A headless Chromium, and a picture of a page: ``python tests/e2e/chromium.py PAGE.html PICTURE.png``."""

import shutil
import sys
from pathlib import Path

PROGRAMS = "chromium or google-chrome", "chromedriver"


def missing() -> list[str]:
    """The programs that are not installed."""
    found = (shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver"))
    return [name for name, path in zip(PROGRAMS, found, strict=True) if path is None]


def started(width: int, height: int, phone: bool = False):
    """A driver of a browser whose page has that size; no window is as narrow as a phone, which is emulated."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},{height}")
    if phone:
        screen = {"width": width, "height": height, "pixelRatio": 1.0, "touch": False}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": screen})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def open_page(driver, page: Path, seconds: float = 60) -> None:
    """Opens a page and waits until all its plots are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(page.resolve().as_uri())
    WebDriverWait(driver, seconds).until(lambda one: not one.execute_script(_UNDRAWN))


_UNDRAWN = """
return [...document.querySelectorAll(".plotly-graph-div")]
  .filter((plot) => !plot.querySelector(".scatterlayer .trace, .barlayer .trace, .heatmaplayer .hm image"))
  .map((plot) => plot.id);
"""


def main(page: str, picture: str, width: int = 1100, height: int = 1250) -> None:
    """Writes a picture of the top of a page."""
    driver = started(width, height)
    try:
        open_page(driver, Path(page))
        path = Path(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(driver.get_screenshot_as_png())
    finally:
        driver.quit()


if __name__ == "__main__":
    if missing():
        sys.exit(f"not installed: {', '.join(missing())}")
    if len(sys.argv) not in (3, 5):
        sys.exit("usage: python tests/e2e/chromium.py PAGE PICTURE [WIDTH HEIGHT]")
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
