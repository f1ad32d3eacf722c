"""Looks at the pages of a running server in a headless browser.

    python3 -m venv target/browser && target/browser/bin/pip install playwright
    target/browser/bin/python crates/server/pages/check.py http://localhost:3000 \
        --browser "$(command -v chromium)" --pictures target/pictures

Without `--browser` it takes the one that `playwright install chromium` got. Pages are looked at
light and dark, wide and narrow. Fails on an error in a console, on anything that is asked of another
host, where content is missing or wider than the page, and where colours do not follow the theme or
can hardly be read. It is not part of `cargo xtask test`: nothing else needs a browser.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "xtask"))
from browser import VIEWS, colours, fits, main, shoot, watched  # noqa: E402


def status(page, address):
    page.goto(address + "/")
    page.wait_for_selector(".phase.ready", timeout=10_000)
    # Requests move the numbers and draw the plot.
    body = {"inputs": ["heat", "cold"]}
    for _ in range(3):
        assert page.request.post(address + "/embed", data=body).ok
    page.wait_for_function("document.querySelectorAll('polyline').length === 3", timeout=10_000)
    page.wait_for_timeout(4500)
    assert page.locator(".model").count() == 12, page.locator(".model").count()
    assert page.locator(".model.answers").count() > 0
    items = page.locator(".card", has_text="items").first.locator("b").inner_text()
    assert int(items.replace(",", "")) >= 6, items
    points = page.locator("polyline.p50").get_attribute("points")
    assert len(points.split()) >= 2, points
    assert "programs" in page.locator("#warmup").inner_text()
    assert page.locator("#fault").inner_text() == ""


def docs(page, address):
    page.goto(address + "/docs")
    page.wait_for_selector("details")
    assert page.locator("details").count() >= 18, page.locator("details").count()
    for path in ["/embed", "/v1/embeddings", "/v1/fused", "/tokenize", "/readyz", "/rerank"]:
        details = page.locator(f"details[data-path='{path}']").first
        details.locator("summary").click()
        details.locator("button").click()
        details.locator("pre.good").wait_for(timeout=10_000)
        assert details.locator("pre").inner_text().startswith("200 after"), path
    broken = page.locator("details[data-path='/embed']").first
    broken.locator("textarea").fill("{")
    broken.locator("button").click()
    broken.locator("pre.bad").wait_for(timeout=10_000)
    assert broken.locator("pre").inner_text().startswith("400 after")


def look_at_both(browser, address, pictures):
    address, faults = address.rstrip("/"), []
    is_own = lambda url: url.startswith((address, "data:"))
    for look in (status, docs):
        for theme, width in VIEWS:
            own = []
            options = {"viewport": {"width": width, "height": 1000}, "color_scheme": theme}
            page = watched(browser, is_own, own, **options)
            look(page, address)
            colours(page, theme, own)
            fits(page, width, own)
            shoot(page, pictures, f"{look.__name__}-{theme}-{width}")
            page.close()
            # A refused body is an error in the browser's eyes; it was asked for.
            own = [it for it in own if look is not docs or "400 (Bad Request)" not in it]
            faults += [f"{look.__name__}, {theme}, {width} wide: {it}" for it in own]
    return faults


main(__doc__, look_at_both, "address")
