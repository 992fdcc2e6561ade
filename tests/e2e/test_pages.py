"""Pages in a real browser: they open without a server, draw, sort, filter and turn, and fit a phone."""

import pytest

_MISSING = "selenium is not installed: no page is opened"
By = pytest.importorskip("selenium.webdriver.common.by", reason=_MISSING).By
Keys = pytest.importorskip("selenium.webdriver.common.keys", reason=_MISSING).Keys
support = pytest.importorskip("selenium.webdriver.support.ui", reason=_MISSING)
Select, WebDriverWait = support.Select, support.WebDriverWait


@pytest.fixture
def page(browser, report):
    """The opened page, all plots drawn."""
    browser.get_log("browser")  # forgets what others said
    browser.get(report.as_uri())
    WebDriverWait(browser, 30).until(lambda b: not b.execute_script(_UNDRAWN))
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


_UNDRAWN = """
return [...document.querySelectorAll(".plotly-graph-div")]
  .filter((plot) => !plot.querySelector(".scatterlayer .trace, .barlayer .trace, .heatmaplayer .hm image"))
  .map((plot) => plot.id);
"""


def shown(page, selector):
    return [one for one in page.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]


def test_plots_draw(page, report, screenshots):
    plots = page.find_elements(By.CSS_SELECTOR, ".plotly-graph-div")
    assert len(plots) > 3
    assert all(plot.size["width"] > 200 for plot in plots)
    name = f"{report.parent.name}-{page.size_name}"
    page.save_screenshot(str(screenshots / f"{name}-top.png"))
    for section in page.find_elements(By.CSS_SELECTOR, "section"):
        page.execute_script("arguments[0].scrollIntoView(true)", section)
        page.save_screenshot(str(screenshots / f"{name}-{section.get_attribute('id')[:40]}.png"))


def test_nothing_is_wider_than_the_screen(page):
    page.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true;")
    sizes = page.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert sizes[0] == sizes[1]
    wide = page.execute_script("""
      return [...document.querySelectorAll("body *")].filter((one) =>
        one.getBoundingClientRect().right > window.innerWidth + 1 && !one.closest(".scroll, nav, pre, figure"))
        .map((one) => one.outerHTML.slice(0, 80));""")
    assert wide == []


def test_the_navigation_leads_to_sections(page):
    links = page.find_elements(By.CSS_SELECTOR, "nav a")
    assert len(links) == len(page.find_elements(By.CSS_SELECTOR, "section h2")) > 5
    last = links[-1]
    page.execute_script("arguments[0].scrollIntoView()", last)
    last.click()
    place = "return document.getElementById(location.hash.slice(1)).getBoundingClientRect().top"
    WebDriverWait(page, 5).until(lambda b: 0 <= b.execute_script(place) < b.execute_script("return innerHeight"))
    assert page.find_element(By.CSS_SELECTOR, "nav").rect["height"] < 100


def column(page, table, index):
    """What a column is sorted by, from top to bottom, without the empty cells, which must be at its end."""
    values = page.execute_script(
        "return [...arguments[0].tBodies[0].rows].map((row) => row.cells[arguments[1]].dataset.sort)", table, index
    )
    known = [value for value in values if value != ""]
    assert values == known + [""] * (len(values) - len(known))
    return known


def test_tables_sort(page):
    page.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true;")
    tables = page.find_elements(By.CSS_SELECTOR, "table.sortable")
    assert len(tables) > 2
    for table in tables:
        for index, head in enumerate(table.find_elements(By.CSS_SELECTOR, "thead th")):
            button = head.find_element(By.TAG_NAME, "button")
            text = "text" in (head.get_attribute("class") or "").split()
            first, second = ("ascending", "descending") if text else ("descending", "ascending")
            for expected in (first, second):
                page.execute_script("arguments[0].click()", button)
                assert head.get_attribute("aria-sort") == expected
                values = column(page, table, index)
                values = [value.casefold() for value in values] if text else [float(value) for value in values]
                if not text or all(value.isalnum() for value in values):  # locales order signs in their own ways
                    assert values == sorted(values, reverse=expected == "descending")
        assert len(table.find_elements(By.CSS_SELECTOR, "th[aria-sort]")) == 1


def test_a_head_sorts_with_the_keyboard_and_with_a_click(page):
    table = page.find_element(By.CSS_SELECTOR, "#leaderboard table")
    head = table.find_elements(By.CSS_SELECTOR, "thead th")[0]
    button = head.find_element(By.TAG_NAME, "button")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    before = column(page, table, 0)
    button.send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, table, 0) == before[::-1] != before or len(set(before)) < len(before)
    assert table.find_element(By.XPATH, "..").get_attribute("tabindex") == "0"


def test_the_first_column_stays(page):
    box = page.find_element(By.CSS_SELECTOR, "#leaderboard .scroll")
    page.execute_script("arguments[0].scrollLeft = 250", box)
    cell = box.find_element(By.CSS_SELECTOR, "tbody td")
    assert abs(cell.rect["x"] - box.rect["x"]) < 2


def test_the_filter_shows_one_setting(page):
    (form,) = page.find_elements(By.CSS_SELECTOR, "form.filter")
    for choice in form.find_elements(By.TAG_NAME, "select"):
        name, select = choice.get_attribute("name"), Select(choice)
        wanted = select.options[1].get_attribute("value")
        every = len(shown(page, "#leaderboard tbody tr"))
        select.select_by_value(wanted)
        rows = shown(page, "#leaderboard tbody tr")
        assert 0 < len(rows) < every
        own = [row for row in rows if "trivial" not in row.get_attribute("class").split()]  # those are of any K and P
        assert own
        assert {row.get_attribute(f"data-{name}") for row in own} == {wanted}
        assert {row.get_attribute(f"data-{name}") or wanted for row in rows} == {wanted}
        assert form.find_element(By.TAG_NAME, "output").text == f"{len(rows)} of {every} lines"
        assert {plot.get_attribute(f"data-{name}") or wanted for plot in shown(page, "figure.setting")} <= {wanted}
        select.select_by_value("")
        assert len(shown(page, "#leaderboard tbody tr")) == every


def test_a_section_without_the_setting_is_hidden(page, report):
    if report.parent.name != "interactive":
        pytest.skip("has one protocol")
    section = page.find_element(By.ID, "objects-accuracy-against-clicks")
    select = Select(page.find_element(By.CSS_SELECTOR, "form.filter select[name=protocol]"))
    select.select_by_value("interactive-points")
    assert not section.is_displayed()
    select.select_by_value("interactive")
    assert section.is_displayed()


def facts(page):
    names, values = (page.find_elements(By.CSS_SELECTOR, f".told dl {tag}") for tag in ("dt", "dd"))
    return {name.text: value.text for name, value in zip(names, values, strict=True)}


def iou(page):
    found = facts(page)
    return float(next(found[name] for name in ("IoU", "J", "IoU of the union") if name in found))


def field(page, name):
    return page.find_element(By.CSS_SELECTOR, f".gallery [name={name}]")


def choose(page, name, value):
    Select(field(page, name)).select_by_value(value)


def position(page):
    return [int(word) for word in page.find_element(By.CSS_SELECTOR, ".pager output").text.split(" of ")]


def test_the_gallery_turns_its_pages(page):
    gallery = page.find_element(By.CSS_SELECTOR, ".gallery")
    page.execute_script("arguments[0].scrollIntoView()", gallery)
    assert gallery.find_elements(By.CSS_SELECTOR, ".shown img"), "it opens at an episode with a picture"
    choose(page, "order", "worst")
    first, last = position(page)
    assert first == 1
    assert last > 3
    assert not field(page, "previous").is_enabled()
    seen = [iou(page)]
    for _ in range(2):
        field(page, "next").click()
        seen.append(iou(page))
    gallery.send_keys(Keys.ARROW_RIGHT)
    seen.append(iou(page))
    assert position(page) == [4, last]
    assert seen == sorted(seen)
    gallery.send_keys(Keys.ARROW_LEFT)
    assert position(page) == [3, last]
    choose(page, "order", "best")
    assert iou(page) >= seen[-1]


def test_the_gallery_chooses_a_method_a_class_and_pictures(page):
    configs = [option.text for option in Select(field(page, "config")).options]
    assert len(configs) > 1
    choose(page, "config", configs[1])
    runs = [option.text for option in Select(field(page, "run")).options]
    choose(page, "order", "list")
    episode = facts(page)
    assert runs[0].split(",")[0] in episode["episode"]
    assert {"class", "query", "support", "folder"} <= episode.keys() or "clicks" in episode
    classes = Select(field(page, "class")).options
    choose(page, "class", classes[-1].get_attribute("value"))
    assert facts(page)["class"] == classes[-1].text
    choose(page, "class", "")
    every = position(page)[1]
    field(page, "pictured").click()
    assert 0 < position(page)[1] < every
    assert page.execute_script("return document.querySelector('.shown img').naturalWidth") > 0
    bars = page.find_elements(By.CSS_SELECTOR, ".others .bar")
    values = [float(bar.text.split()[-1]) for bar in bars]
    assert values == sorted(values, reverse=True)
    assert len(bars) > 1
    assert len(page.find_elements(By.CSS_SELECTOR, ".others .own")) == 1
