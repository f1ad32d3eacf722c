"""Looks at the pages of a running server in a headless browser.

    python3 -m venv target/browser && target/browser/bin/pip install playwright
    target/browser/bin/python crates/server/pages/check.py http://localhost:3000 \
        --browser "$(command -v chromium)" --pictures target/pictures

Without `--browser` it takes the one that `playwright install chromium` got. Fails on an error in a
console, on anything that is asked of another host, and where content is missing. It is not part of
`cargo xtask test`: nothing else needs a browser.
"""

import argparse
import pathlib
import sys

from playwright.sync_api import sync_playwright


def watched(browser, address, faults):
    page = browser.new_page(viewport={"width": 1100, "height": 1400})
    page.on("console", lambda it: faults.append(it.text) if it.type == "error" else None)
    page.on("pageerror", lambda it: faults.append(str(it)))
    page.on("requestfailed", lambda it: faults.append(f"{it.url}: {it.failure}"))

    def asked(request):
        if not request.url.startswith((address, "data:")):
            faults.append(f"asks another host: {request.url}")

    page.on("request", asked)
    return page


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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--browser")
    parser.add_argument("--pictures", type=pathlib.Path)
    arguments = parser.parse_args()
    address = arguments.address.rstrip("/")
    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=arguments.browser, args=["--no-sandbox"]
        )
        for look in (status, docs):
            page = watched(browser, address, faults)
            look(page, address)
            if arguments.pictures:
                arguments.pictures.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=arguments.pictures / f"{look.__name__}.png", full_page=True)
            if look is docs:
                # A refused body is an error in the browser's eyes; it was asked for.
                faults[:] = [it for it in faults if "400 (Bad Request)" not in it]
            page.close()
        browser.close()
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        sys.exit(1)
    print("ok")


main()
