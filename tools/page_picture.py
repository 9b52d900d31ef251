"""Take docs/report.png: a picture of a results folder's page in headless Chromium.

    install/browser.sh                                            (Debian's chromium and its driver)
    python tools/page_picture.py results/smoke/report.html docs/report.png

The picture starts at the page's top and ends where ``--before`` begins, by default the second of
the questions that fold.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars")


def take(page: Path, before: str, width: int) -> bytes:
    """PNG of the page from its top to a part, by the part's id.

    Raises ``LookupError`` without that part, ``FileNotFoundError`` without a browser.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        raise FileNotFoundError("no chromium and chromedriver; on Debian: install/browser.sh")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(executable_path=driver)
        browser = webdriver.Chrome(options=options, service=service)
        try:
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(page.resolve().as_uri())
            script = (
                "const section = document.getElementById(arguments[0]);"
                "return section && section.getBoundingClientRect().top + scrollY"
            )
            height = browser.execute_script(script, before)
            if height is None:
                raise LookupError(f"{page}: no section '{before}'")
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            request = {"captureBeyondViewport": True, "clip": clip}
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", request)
        finally:
            browser.quit()
    return base64.b64decode(shot["data"])


def main() -> int:
    """Write the picture. Returns 1 and one line on stderr if there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path, help="a report.html")
    parser.add_argument("picture", type=Path, help="the .png to write")
    parser.add_argument("--before", default="much", help="id of what is left out first")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    options = parser.parse_args()
    try:
        picture = take(options.page, options.before, options.width)
    except (OSError, LookupError, WebDriverException) as error:
        print(f"page_picture: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    options.picture.write_bytes(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
