"""The audit in CI fails on a known vulnerability, and does not pass if the service is unreachable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLEAN = {"name": "rich", "version": "15.0.0", "vulns": []}
VULNERABLE = {"name": "torch", "version": "2.0.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1.0"]}]}
UNKNOWN = {"name": "trl", "skip_reason": "Dependency not found"}
# Replaces pip-audit: writes the findings of a test, or fails like pip-audit without a network.
PIP_AUDIT = """
import sys
found = {found!r}
if found is None:
    sys.exit("ConnectionError: no such host")
open(sys.argv[sys.argv.index("--output") + 1], "w").write(found)
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        ([CLEAN, UNKNOWN], 0, "1 of 2 packages were found where advisories are kept; 0 with a known vulnerability"),
        ([CLEAN, VULNERABLE], 1, "torch 2.0.0: PYSEC-1, mended in 2.1.0"),
        (None, 0, "audit: not done, ConnectionError: no such host"),
    ],
)
def test_audit(tmp_path: Path, found: list[object] | None, code: int, words: str) -> None:
    text = None if found is None else json.dumps({"dependencies": found})
    (tmp_path / "pip_audit.py").write_text(PIP_AUDIT.format(found=text))
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "audit.py")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stdout
