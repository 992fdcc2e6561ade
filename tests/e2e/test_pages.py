"""Pages in a real browser: they open without a server, draw, sort, filter and turn, and fit a phone."""

import pytest

_MISSING = "selenium is not installed: no page is opened"
By = pytest.importorskip("selenium.webdriver.common.by", reason=_MISSING).By
Keys = pytest.importorskip("selenium.webdriver.common.keys", reason=_MISSING).Keys
support = pytest.importorskip("selenium.webdriver.support.ui", reason=_MISSING)
Select, WebDriverWait = support.Select, support.WebDriverWait

NOTHING = "nothing there, nothing found"


def shown(page, selector):
    """The elements that are not hidden."""
    script = "return [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility())"
    return page.execute_script(script, selector)


def attributes(page, elements, *names):
    """Of each element the values of some attributes; None where it has none."""
    script = "return arguments[0].map((one) => arguments[1].map((name) => one.getAttribute(name)))"
    return page.execute_script(script, elements, names)


def test_plots_draw(page):
    script = "return [...document.querySelectorAll('.plotly-graph-div')].map((plot) => plot.offsetWidth)"
    widths = page.execute_script(script)
    assert len(widths) > 3
    assert min(widths) > 200


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


_SORTED = """
const tables = [...document.querySelectorAll("table.sortable")];
return tables.flatMap((table) => [...table.tHead.rows[0].cells].flatMap((head) =>
  [1, 2].map(() => {
    head.firstElementChild.click();
    return {
      text: head.classList.contains("text"),
      sorted: head.getAttribute("aria-sort"),
      marked: table.querySelectorAll("th[aria-sort]").length,
      values: [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].dataset.sort),
    };
  })));
"""


def test_tables_sort(page):
    assert len(page.find_elements(By.CSS_SELECTOR, "table.sortable")) > 2
    clicks = page.execute_script(_SORTED)
    assert len(clicks) > 20
    for number, one in enumerate(clicks):
        assert one["marked"] == 1
        assert one["sorted"] == ("ascending" if one["text"] == (number % 2 == 0) else "descending")
        known = [value for value in one["values"] if value != ""]
        assert one["values"] == known + [""] * (len(one["values"]) - len(known))
        keys = [value.casefold() for value in known] if one["text"] else [float(value) for value in known]
        if not one["text"] or all(value.isalnum() for value in keys):  # locales order signs in their own ways
            assert keys == sorted(keys, reverse=one["sorted"] == "descending")


def test_a_head_sorts_with_the_keyboard_and_with_a_click(page):
    table = page.find_element(By.CSS_SELECTOR, "#leaderboard table")
    head = table.find_elements(By.CSS_SELECTOR, "thead th")[0]
    button = head.find_element(By.TAG_NAME, "button")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    if head.get_attribute("aria-sort") == "ascending":  # another test has sorted
        button.click()
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    names = column(page, table, 0)
    assert len(set(names)) > 1
    button.send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, table, 0) == sorted(names, key=list(dict.fromkeys(names[::-1])).index)
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
        told = attributes(page, rows, "class", f"data-{name}")
        own = [value for css, value in told if "trivial" not in css.split()]  # those are of several K and P, or of any
        assert own
        assert set(own) == {wanted}
        assert all(value is None or wanted in value.split(", ") for _, value in told)
        assert form.find_element(By.TAG_NAME, "output").text == f"{len(rows)} of {every} lines"
        plots = attributes(page, shown(page, "figure.setting"), f"data-{name}")
        assert {value or wanted for (value,) in plots} <= {wanted}
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
    script = (
        "return ['dt', 'dd'].map((tag) => [...document.querySelectorAll(`.told dl ${tag}`)].map((x) => x.innerText))"
    )
    return dict(zip(*page.execute_script(script), strict=True))


def iou(page):
    found = facts(page)
    value = next(found[name] for name in ("IoU", "J", "IoU of the union") if name in found)
    return 1.0 if value == NOTHING else float(value)


def field(page, name):
    return page.find_element(By.CSS_SELECTOR, f".gallery [name={name}]")


def choose(page, name, value):
    Select(field(page, name)).select_by_value(value)


def position(page):
    return [int(word) for word in page.find_element(By.CSS_SELECTOR, ".pager output").text.split(" of ")]


def test_the_gallery_turns_its_pages(page):
    gallery = page.find_element(By.CSS_SELECTOR, ".gallery")
    page.execute_script("arguments[0].scrollIntoView()", gallery)
    assert page.first_pictures > 0, "it opens at an episode with a picture"
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


def runs_of_panet(page):
    """Text -> value of its runs, and the value of the one whose queries do not all show their class."""
    choose(page, "config", "panet")
    runs = {one.text: one.get_attribute("value") for one in Select(field(page, "run")).options}
    return runs, next(value for name, value in runs.items() if "clean-absent" in name)


def test_the_right_answer_to_a_query_without_the_class_is_a_good_one(page, report):
    if report.parent.name != "semantic":
        pytest.skip("all queries show their class")
    _, absent = runs_of_panet(page)
    choose(page, "run", absent)
    choose(page, "order", "best")
    told = facts(page)
    assert told["IoU"] == NOTHING
    assert told["class"].endswith("(not in the query)")
    best = page.execute_script("return document.querySelector('.others .bar')")
    assert best.text.endswith(NOTHING)
    assert "--share: 100%" in best.get_attribute("style")
    choose(page, "order", "worst")
    seen = [iou(page)]
    for _ in range(position(page)[1] - 1):
        field(page, "next").click()
        seen.append(iou(page))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)  # something is found where nothing is


def test_another_run_keeps_the_class_by_its_name(page, report):
    if report.parent.name != "semantic":
        pytest.skip("no class is in two lists at different places")
    runs, absent = runs_of_panet(page)
    choose(page, "run", next(value for name, value in runs.items() if "clean," in name and "fold 0" in name))
    Select(field(page, "class")).select_by_visible_text("class2")
    index = field(page, "class").get_attribute("value")
    choose(page, "run", absent)
    assert Select(field(page, "class")).first_selected_option.text == "class2"
    assert field(page, "class").get_attribute("value") != index
    assert facts(page)["class"].split(" (")[0] == "class2"
    choose(page, "run", next(v for k, v in runs.items() if "fold 1" in k))  # has other classes
    assert Select(field(page, "class")).first_selected_option.text == "all"


def test_a_picture_is_called_by_the_number_of_its_episode(page, report):
    if report.parent.name != "semantic":
        pytest.skip("episodes are counted from 0")
    _, absent = runs_of_panet(page)
    choose(page, "run", absent)
    field(page, "pictured").click()
    number = facts(page)["episode"].split(" of ")[0]
    assert int(number) >= 100
    alt = page.find_element(By.CSS_SELECTOR, ".shown img").get_attribute("alt")
    assert alt.split(": ")[1] == f"episode {number} of {field(page, 'config').get_attribute('value')}"
