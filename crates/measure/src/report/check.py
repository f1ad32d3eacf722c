"""Looks at reports and dashboards in a headless browser, light and dark, wide and narrow.

    python3 -m venv target/browser && target/browser/bin/pip install playwright
    calor bench report PACKAGE --output target/report.html
    target/browser/bin/python crates/measure/src/report/check.py target/report.html \
        --browser "$(command -v chromium)" --pictures target/pictures

Without `--browser` it takes the one that `playwright install chromium` got. Fails on an error in a
console, on anything that is asked for beside the page, where plots are missing, empty or wider than
their frame, where words leave their plot, where colours do not follow the theme or can hardly be
read, and where tables do not sort. It is not part of `cargo xtask test`: nothing else needs a
browser.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[4] / "xtask"))
from browser import VIEWS, colours, fits, main, shoot, watched  # noqa: E402

# What every plot must have: a place on the page, lines or bars in it, and words that stay inside.
PLOTS = """() => [...document.querySelectorAll("figure svg")].map((svg) => {
  const frame = svg.getBoundingClientRect();
  const words = [...svg.querySelectorAll("text")].filter((it) => it.textContent.trim());
  const shapes = "polyline, path, rect, line, circle, polygon";
  const drawn = [...svg.querySelectorAll(shapes)].filter((it) => {
    const box = it.getBoundingClientRect();
    return 1 < box.width + box.height;
  });
  const out = words.filter((it) => {
    const box = it.getBoundingClientRect();
    const slack = 1;
    return box.left < frame.left - slack || frame.right + slack < box.right
      || box.top < frame.top - slack || frame.bottom + slack < box.bottom;
  });
  const boxes = words.map((it) => ({text: it.textContent, box: it.getBoundingClientRect()}));
  const met = [];
  boxes.forEach((a, at) => boxes.slice(at + 1).forEach((b) => {
    const [x, y] = [a.box, b.box];
    const wide = Math.min(x.right, y.right) - Math.max(x.left, y.left);
    const high = Math.min(x.bottom, y.bottom) - Math.max(x.top, y.top);
    // Boxes of letters have air around them; what really overlaps shares more than that.
    if (2 < wide && 0.35 * Math.min(x.height, y.height) < high) met.push(a.text + " / " + b.text);
  }));
  return {
    title: svg.closest("figure").querySelector("figcaption").textContent,
    width: frame.width, height: frame.height, words: words.length, drawn: drawn.length,
    out: out.map((it) => it.textContent), met,
  };
})"""

def plots(page, faults):
    found = page.evaluate(PLOTS)
    if not found:
        faults.append("no plot at all")
    for it in found:
        title = it["title"]
        if it["width"] < 200 or it["height"] < 100:
            faults.append(f"{title}: is {it['width']:.0f} by {it['height']:.0f}")
        if it["words"] < 3 or it["drawn"] < 3:
            faults.append(f"{title}: {it['words']} words and {it['drawn']} shapes are no plot")
        for text in it["out"]:
            faults.append(f"{title}: `{text}` leaves the plot")
        for text in it["met"]:
            faults.append(f"{title}: words lie on each other: {text}")
    return len(found)


def works(page, paper, faults):
    button = page.locator("#theme")
    button.click()
    if page.evaluate("getComputedStyle(document.body).backgroundColor") == paper:
        faults.append("the button changes nothing")
    button.click()
    table = page.locator("table.sorts").first
    head = table.locator("thead button").last
    head.click()
    if table.locator("th[aria-sort='ascending']").count() != 1:
        faults.append("a table does not sort")
    head.click()
    if table.locator("th[aria-sort='descending']").count() != 1:
        faults.append("a table does not sort the other way")
    for name in page.evaluate("[...document.querySelectorAll('nav a')].map((it) => it.hash.slice(1))"):
        if not page.evaluate("(name) => !!document.getElementById(name)", name):
            faults.append(f"#{name} leads nowhere")


def look(browser, file, pictures, faults):
    address = file.resolve().as_uri()
    count = 0
    for theme, width in VIEWS:
        own, is_own = [], lambda url: url == address or url.startswith("data:")
        options = {"viewport": {"width": width, "height": 1000}, "color_scheme": theme}
        page = watched(browser, is_own, own, **options)
        page.goto(address)
        count = plots(page, own)
        fits(page, width, own)
        paper = colours(page, theme, own)
        shoot(page, pictures, f"{file.stem}-{theme}-{width}")
        works(page, paper, own)
        page.close()
        faults += [f"{file.name}, {theme}, {width} wide: {it}" for it in own]
    return count


def look_at_all(browser, files, pictures):
    faults = []
    for file in files:
        print(f"{file}: {look(browser, file, pictures, faults)} plots")
    return faults


main(__doc__, look_at_all, "pages", nargs="+", type=pathlib.Path)
