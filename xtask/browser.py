"""What looks at pages in a headless browser have in common."""

import argparse
import pathlib
import sys

from playwright.sync_api import sync_playwright


# Everything that holds words.
WORDS = "p, td, th, b, i, li, span, a, code, pre, label, summary, figcaption, h1, h2, svg text"

# The contrast of words with what lies under them, by the formula of WCAG 2.
CONTRASTS = """(words) => {
  const parts = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((it) => {
      const part = it / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const under = (node) => {
    for (let it = node; it; it = it.parentElement) {
      const colour = parts(getComputedStyle(it).backgroundColor);
      if (colour.length === 3 || (colour.length === 4 && 0 < colour[3])) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const it of document.querySelectorAll(words)) {
    if (!it.textContent.trim()) continue;
    const style = getComputedStyle(it);
    const colour = parts(it.closest("svg") ? style.fill : style.color);
    if (colour.length < 3) continue;
    const [a, b] = [light(colour), light(under(it))].sort((x, y) => y - x);
    found.push({text: it.textContent.trim().slice(0, 40), ratio: (a + 0.05) / (b + 0.05)});
  }
  return found;
}"""

# Enough for words of this size by WCAG 2, level AA for large ones; plots are drawn large.
CONTRAST_MIN = 3.0

# Themes and widths in which every page is looked at.
VIEWS = [(theme, width) for theme in ("light", "dark") for width in (1280, 420)]


def watched(browser, is_own, faults, **options):
    """A page whose errors are faults, and everything that it asks for where `is_own` denies it."""
    page = browser.new_page(**options)
    page.on("console", lambda it: faults.append(it.text) if it.type == "error" else None)
    page.on("pageerror", lambda it: faults.append(str(it)))
    page.on("requestfailed", lambda it: faults.append(f"{it.url}: {it.failure}"))

    def asked(request):
        if not is_own(request.url):
            faults.append(f"asks for something elsewhere: {request.url}")

    page.on("request", asked)
    return page


def colours(page, theme, faults):
    """Colours follow the theme, and words can be read; the colour of the paper."""
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(int(it) for it in paper.strip("rgba()").split(",")[:3]) < 3 * 128
    if is_dark != (theme == "dark"):
        faults.append(f"the page is {paper} in a {theme} theme")
    for it in page.evaluate(CONTRASTS, WORDS):
        if it["ratio"] < CONTRAST_MIN:
            faults.append(f"`{it['text']}` has a contrast of {it['ratio']:.1f} in {theme}")
    return paper


def fits(page, width, faults):
    """A page is not wider than its window."""
    wide = page.evaluate("document.documentElement.scrollWidth")
    if width < wide:
        faults.append(f"the page is {wide} wide")


def shoot(page, pictures, name):
    """Keeps a picture of a page, where somebody wants it."""
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=pictures / f"{name}.png", full_page=True)


def main(about, look, name, **options):
    """Has `look(browser, value, pictures)` find the faults of what the command line names."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(name, **options)
    parser.add_argument("--browser")
    parser.add_argument("--pictures", type=pathlib.Path)
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=arguments.browser, args=["--no-sandbox"]
        )
        faults = look(browser, getattr(arguments, name), arguments.pictures)
        browser.close()
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        sys.exit(1)
    print("ok")
