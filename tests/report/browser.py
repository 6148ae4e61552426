"""Opens pages in headless Chromium without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open pages with")


class Opened(NamedTuple):
    """The result of opening a page."""

    dom: str
    """The document after all scripts have run."""
    console: list[str]
    """Messages about errors and blocked resources."""


def open_page(path: Path, *, width: int = 1280, dark: bool = False) -> Opened:
    assert CHROMIUM is not None
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    words += [f"--window-size={width},2000", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    words += ["--blink-settings=preferredColorScheme=0"] if dark else []
    profile = path.with_suffix(".profile")
    done = subprocess.run(
        [CHROMIUM, *words, f"--user-data-dir={profile}", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    return Opened(done.stdout, re.findall(r'CONSOLE.*?"(.*)"', done.stderr))
