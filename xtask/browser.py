"""What looks at pages in a headless browser have in common."""

import argparse
import pathlib
import sys

from playwright.sync_api import sync_playwright


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
