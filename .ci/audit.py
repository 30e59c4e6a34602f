"""Asks whether any pinned dependency has a known vulnerability; says so plainly where nobody could be asked."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

PINS = (Path("requirements/constraints.txt"), Path("requirements/label-studio.txt"))

ACCEPTED: dict[str, str] = {}
"""Identifiers of vulnerabilities that do not reach us, each with the reason."""


def main() -> int:
    """Audit the pins.

    Returns:
        The exit code: 1 if a vulnerability is not accepted, or if nobody could be asked where somebody had to be.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--must", action="store_true", help="Fail where the vulnerability service cannot be asked.")
    must = parser.parse_args().must
    found, unasked = 0, 0
    for pins in PINS:
        command = [sys.executable, "-m", "pip_audit", "-r", str(pins), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            dependencies = json.loads(done.stdout)["dependencies"]
        except ValueError:
            print(f"{pins}: not audited: {done.stderr.strip().splitlines()[-1:]}")  # noqa: T201
            unasked += 1
            continue
        asked = [one for one in dependencies if "vulns" in one]
        unasked += len(dependencies) - len(asked)
        print(f"{pins}: {len(asked)} of {len(dependencies)} packages audited")  # noqa: T201
        for one in asked:
            for vulnerability in one["vulns"]:
                reason = ACCEPTED.get(vulnerability["id"])
                fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
                said = f"accepted: {reason}" if reason else f"fixed in {fixed}"
                print(f"{one['name']} {one['version']}: {vulnerability['id']}, {said}")  # noqa: T201
                found += reason is None
    if unasked:
        print(f"Not audited: {unasked}. The vulnerability service cannot be reached, or does not know them.")  # noqa: T201
    return int(bool(found) or (must and bool(unasked)))


if __name__ == "__main__":
    sys.exit(main())
