"""Opening a page in a real, headless Chromium: what it draws, and what its console says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROBE = """<script>
window.addEventListener('load', () => {
  const found = [...document.querySelectorAll('%s')].map(item => {
    const box = item.getBoundingClientRect();
    return {id: item.id, width: box.width, height: box.height, paths: item.querySelectorAll('svg path').length,
            text: item.textContent};
  });
  const note = document.createElement('pre');
  note.id = 'probe';
  note.textContent = JSON.stringify(found);
  document.body.appendChild(note);
});
</script>"""


def find_browser() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass(frozen=True)
class Opened:
    """What a page looks like from inside.

    Args:
        items: Size, paths and text of each element that was asked for.
        console: Complaints of the console.
    """

    items: list[dict[str, Any]]
    console: list[str]


def open_page(page: Path, selector: str, *more: str) -> Opened:
    """Open a copy of a page that says how large its elements are drawn."""
    browser = find_browser()
    assert browser is not None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, page.name)
        copy.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE % selector + "</body>"), "utf-8")
        result = subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                f"--user-data-dir={folder}/profile", "--enable-logging=stderr", "--virtual-time-budget=5000",
                "--window-size=1280,2400", *more, "--dump-dom", copy.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    probe = re.search(r'<pre id="probe">(.*?)</pre>', result.stdout, re.DOTALL)
    assert probe, result.stdout[-2000:] + result.stderr[-2000:]
    import html

    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return Opened(json.loads(html.unescape(probe.group(1))), console)
