"""The packages of constraints.txt against the known vulnerabilities: fails on one, says what could not be asked.

python .ci/audit.py, in an environment with pip-audit
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """The exit code of the audit."""
    with tempfile.TemporaryDirectory() as base:
        found = Path(base) / "audit.json"
        words = ["--requirement", "constraints.txt", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", *words, "--format", "json", "--output", str(found)],
            capture_output=True,
            text=True,
            check=False,
        )
        if not found.exists():
            # pip-audit exits with 1 for a vulnerability and for a service that it cannot reach.
            print(f"audit: not done, {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
            return 0
        packages = json.loads(found.read_text())["dependencies"]
    asked = [package for package in packages if "skip_reason" not in package]
    print(f"audit: {len(asked)} of {len(packages)} packages were found where advisories are kept", end="; ")
    vulnerable = [package for package in asked if package["vulns"]]
    print(f"{len(vulnerable)} with a known vulnerability")
    for package in vulnerable:
        for advisory in package["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "no version"
            print(f"  {package['name']} {package['version']}: {advisory['id']}, mended in {fixed}")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
