"""Opens a page in a headless browser, and reports errors and layout."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PROBE = """<script>addEventListener("load", () => {
  const pictures = [...document.images].filter(i => !i.naturalWidth);
  document.title = "probe " + JSON.stringify({
    overflow: document.documentElement.scrollWidth - innerWidth, broken: pictures.length,
    height: document.documentElement.scrollHeight, text: document.body.innerText.length});
})</script>"""


def opened(page: pathlib.Path, folder: pathlib.Path, width: int = 1200) -> dict:
    """Opens a copy of the page.

    Returns:
      console: messages in the browser's console; overflow: pixels the page is wider than the
      window; broken: pictures that did not load; height of the page and length of its text.
    """
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip(f"no browser: install one of {', '.join(NAMES)} to run this test")
    copy = folder / f"probe-{width}.html"
    copy.write_text(page.read_text("utf-8").replace("</body>", f"{_PROBE}</body>"), "utf-8")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--window-size={width},900",
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    probe = re.search(r"<title>probe (.*?)</title>", done.stdout)
    assert probe, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return {"console": console, **json.loads(probe[1])}
