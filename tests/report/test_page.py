"""The report in headless Chromium: it loads, images show, tabs work by mouse and keyboard, nothing is requested."""

import json
import shutil

import pytest

from tests import report_run

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="the tests of the page need selenium: pip install -e .[test]"
)
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needed = "needs Chromium and its driver on the PATH: apt-get install chromium chromium-driver"
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason=needed)

# What an accessibility checker asks first: a name for everything that needs one, and contrast of all text.
CHECK = """
const bad = [];
for (const e of document.querySelectorAll('img')) if (!e.alt.trim()) bad.push('no alt: ' + e.outerHTML.slice(0, 80));
for (const e of document.querySelectorAll('button, a, summary, th, caption'))
  if (!e.textContent.trim()) bad.push('no text: ' + e.outerHTML.slice(0, 80));
for (const e of document.querySelectorAll('[role=region], nav'))
  if (!e.getAttribute('aria-label')) bad.push('no label: ' + e.outerHTML.slice(0, 80));
for (const e of document.querySelectorAll('[aria-controls], [aria-labelledby]'))
  for (const a of ['aria-controls', 'aria-labelledby'])
    if (e.hasAttribute(a) && !document.getElementById(e.getAttribute(a))) bad.push('dangling ' + a);
const light = c => { const v = c.map(x => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
const parse = t => t.match(/[\\d.]+/g).map(Number);
for (const e of document.querySelectorAll('body *')) {
  if (['SCRIPT', 'STYLE'].includes(e.tagName)) continue;
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  let b = e, back = [0, 0, 0, 0];
  while (b && (back = parse(getComputedStyle(b).backgroundColor)).length === 4 && back[3] === 0) b = b.parentElement;
  const [x, y] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(back.slice(0, 3))].sort((p, q) => q - p);
  const contrast = (x + 0.05) / (y + 0.05);
  if (contrast < 4.5) bad.push('contrast ' + contrast.toFixed(2) + ' ' + e.outerHTML.slice(0, 80));
}
return bad;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--mute-audio"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The page with pictures, in a folder whose name a URL has to quote, and the page of a features file."""
    folder = tmp_path_factory.mktemp("report") / "a #folder 100%"
    return {full: report_run.write(folder / str(full) / "report.html", full=full) for full in (True, False)}


@pytest.fixture(params=[True, False], ids=["pictures", "features file"])
def opened(browser, files, request):
    browser.set_window_size(1280, 1000)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(files[request.param].as_uri())
    return browser


def requests(driver):
    entries = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]


def test_loads_without_errors_and_asks_for_nothing(opened):
    assert opened.get_log("browser") == []
    assert [url[:60] for url in requests(opened) if not url.startswith(("data:", opened.current_url))] == []
    assert report_run.HOSTILE in opened.title
    assert not opened.find_elements(By.CSS_SELECTOR, "[onerror]")
    # Even what would be injected is not run, and nothing is fetched.
    opened.execute_script("const i = new Image(); i.src = 'https://example.org/x.png'; document.body.append(i)")
    assert any("Content Security Policy" in entry["message"] for entry in opened.get_log("browser"))


def test_images_show(opened):
    shown = "return [...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight])"
    found = opened.execute_script(shown)
    assert len(found) >= 5
    assert all(complete and min(size) > 0 for complete, *size in found)


def summaries(group):
    return group.find_elements(By.CSS_SELECTOR, "details[name] > summary")


def state(group):
    """The number of the open method of a query, None if all are closed; only its list is shown."""
    chosen = [details.get_attribute("open") is not None for details in group.find_elements(By.CSS_SELECTOR, "[name]")]
    assert [results.is_displayed() for results in group.find_elements(By.CSS_SELECTOR, ".results")] == chosen
    assert chosen.count(True) <= 1
    return chosen.index(True) if any(chosen) else None


def test_tabs(opened):
    groups = opened.find_elements(By.CSS_SELECTOR, ".tabs")
    assert len(groups) >= 3
    tabs = summaries(groups[1])
    assert [tab.text for tab in tabs] == ["cosine", "SIM", "k-reciprocal", "AIM"]
    # They stand in a row, the open list below all of them, whichever it is.
    assert len({tab.rect["y"] for tab in tabs}) == 1
    for number in (0, 3):
        if number:
            tabs[number].click()
        assert state(groups[1]) == number
        results = groups[1].find_elements(By.CSS_SELECTOR, ".results")[number]
        assert results.rect["y"] > tabs[0].rect["y"] + tabs[0].rect["height"]
        assert results.rect["width"] > 0.9 * groups[1].rect["width"]
    assert state(groups[0]) == 0
    # By keyboard: from an open list to the next method, which takes its place; the same again closes it.
    opened.execute_script("arguments[0].focus()", tabs[0])
    for key, focused, expected in (
        (Keys.ENTER, 0, 0),
        (Keys.TAB, 1, 0),
        (Keys.SPACE, 1, 1),
        (Keys.TAB, 2, 1),
        (Keys.ENTER, 2, 2),
        (Keys.SPACE, 2, None),
        (Keys.TAB, 3, None),
        (Keys.ENTER, 3, 3),
    ):
        opened.switch_to.active_element.send_keys(key)
        assert opened.switch_to.active_element == tabs[focused]
        assert state(groups[1]) == expected
    assert "solid" in tabs[3].value_of_css_property("outline")
    # From the open method the keyboard goes on into its list.
    opened.switch_to.active_element.send_keys(Keys.TAB)
    inside = "return arguments[0].parentElement.contains(document.activeElement)"
    assert opened.execute_script(inside, tabs[3])
    assert opened.switch_to.active_element != tabs[3]


def test_a_screen_reader_is_told_what_a_tab_is(opened):
    """The name, and whether it is open, as the browser hands them on."""
    opened.execute_cdp_cmd("Accessibility.enable", {})
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = []
    for node in nodes:
        properties = {p["name"]: p["value"].get("value") for p in node.get("properties", [])}
        if not node["ignored"] and "expanded" in properties:
            found.append((node["name"]["value"], properties["expanded"], properties.get("focusable")))
    methods = [("cosine", True, True), ("SIM", False, True), ("k-reciprocal", False, True), ("AIM", False, True)]
    assert [entry for entry in found if entry[0] in ("cosine", "SIM", "k-reciprocal", "AIM")][:4] == methods


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_and_contrast(opened, scheme):
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    assert opened.execute_script(CHECK) == []
    for group in opened.find_elements(By.CSS_SELECTOR, ".tabs"):
        summaries(group)[-1].click()
    assert opened.execute_script(CHECK) == []
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_fits_a_phone(opened):
    """The results show rank-1 and mAP of each row, too."""
    screen = {"height": 780, "deviceScaleFactor": 2, "mobile": True}
    try:
        for width in (360, 390):
            opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, **screen})
            opened.refresh()
            assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        head = opened.find_elements(By.CSS_SELECTOR, ".scroll thead th")[:3]
        assert [cell.text for cell in head] == ["inference", "rank-1 (%)", "mAP (%)"]
        assert head[2].rect["x"] + head[2].rect["width"] <= 390
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_is_there_without_scripts_and_on_paper(opened):
    shown = """return [...document.querySelectorAll('.tabs .results')].map(
        s => s.checkVisibility({contentVisibilityAuto: true}) && s.offsetHeight > 0)"""
    headings = "return [...document.querySelectorAll('h4')].map(h => h.offsetHeight > 5)"
    groups = len(opened.find_elements(By.CSS_SELECTOR, ".tabs"))
    assert opened.execute_script(shown) == [True, False, False, False] * groups
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert opened.execute_script(shown) == opened.execute_script(headings) == [True] * 4 * groups
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.refresh()
        for group in opened.find_elements(By.CSS_SELECTOR, ".tabs"):
            for number, summary in list(enumerate(summaries(group)))[::-1]:
                summary.click()
                assert state(group) == number
        assert opened.execute_script(headings) == [True] * 4 * groups
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
