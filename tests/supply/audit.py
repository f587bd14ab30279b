"""Asks which published weaknesses the versions of `constraints.txt` have, with pip-audit.

    python tests/supply/audit.py [--against FILE]

pip-audit is installed into an environment that is thrown away. Exit codes: 0 no weakness is known,
1 some are, and are listed, 3 nobody could be asked, or not about every package: pip-audit itself
passes over a package that it does not find, and calls the rest sound.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PIP_AUDIT = "pip-audit==2.10.1"
SOUND, WEAK, NOT_ASKED = 0, 1, 3


def verdict(report: dict[str, Any], wanted: set[str]) -> tuple[int, list[str]]:
    """Return the exit code for a report on these packages, and lines that tell why."""
    packages = {package["name"].lower(): package for package in report["dependencies"]}
    lines = [
        f"{name} {package['version']}: {weakness['id']}, mended in "
        f"{', '.join(weakness['fix_versions']) or 'no version yet'}"
        for name, package in packages.items()
        for weakness in package.get("vulns", [])
    ]
    code = WEAK if lines else SOUND
    skipped = [f"{name}: {p['skip_reason']}" for name, p in packages.items() if "skip_reason" in p]
    skipped += [f"{name}: not in the report" for name in sorted(wanted - packages.keys())]
    if skipped:
        lines += [f"not asked: {line}" for line in skipped]
        code = code or NOT_ASKED
    return code, lines


def pinned(file: Path) -> dict[str, str]:
    """Return the packages and versions that a file of constraints names."""
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {name.lower(): version for name, version in pairs}


def asked(versions: dict[str, str], folder: Path) -> dict[str, Any] | None:
    """Return pip-audit's report on these versions; None where it gives none."""
    python, report = folder / "venv" / "bin" / "python", folder / "report.json"
    wanted = folder / "wanted.txt"
    wanted.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    audit = ["-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    for command in (
        [sys.executable, "-m", "venv", folder / "venv"],
        [python, "-m", "pip", "install", "--quiet", "--retries", "1", PIP_AUDIT],
        [python, *audit, "--requirement", wanted, "--format", "json", "--output", report],
    ):
        done = subprocess.run(list(map(str, command)), check=False)
        if done.returncode and not report.exists():
            return None
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def main() -> int:
    """Ask, and print what is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--against", type=Path, default=ROOT / "constraints.txt", metavar="FILE")
    versions = pinned(parser.parse_args().against)
    with tempfile.TemporaryDirectory() as folder:
        report = asked(versions, Path(folder))
    if report is None:
        print("not asked: pip-audit could not be installed or had no network")
        return NOT_ASKED
    code, lines = verdict(report, set(versions))
    print("\n".join([*lines, f"{len(versions)} packages: {'no weakness known' * (not code)}"]))
    return code


if __name__ == "__main__":
    sys.exit(main())
