"""The audit calls a set of packages sound only if every one of them was looked up."""

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import audit

    yield audit
    del sys.modules["audit"]


def package(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": [], **more}


def test_every_version_that_the_tests_run_with_is_asked_about(audit: Any) -> None:
    versions = audit.pinned(ROOT / "constraints.txt")
    assert {"torch", "deepspeed", "safetensors", "pydantic", "wandb"} <= versions.keys()
    assert all(version[0].isdigit() for version in versions.values())


def test_packages_without_a_known_weakness_are_sound(audit: Any) -> None:
    report = {"dependencies": [package("Torch"), package("numpy")]}
    assert audit.verdict(report, {"torch", "numpy"}) == (audit.SOUND, [])


def test_a_weakness_is_listed_with_the_version_that_mends_it(audit: Any) -> None:
    weakness = {"id": "CVE-1", "fix_versions": ["1.1"]}
    report = {"dependencies": [package("torch", vulns=[weakness]), package("numpy")]}
    code, (line,) = audit.verdict(report, {"torch", "numpy"})
    assert code == audit.WEAK
    assert line == "torch 1.0: CVE-1, mended in 1.1"


def test_what_was_not_looked_up_is_not_called_sound(audit: Any) -> None:
    skipped = {"name": "tyro", "skip_reason": "not found"}
    code, lines = audit.verdict({"dependencies": [skipped]}, {"tyro", "rich"})
    assert code == audit.NOT_ASKED
    assert lines == ["not asked: tyro: not found", "not asked: rich: not in the report"]
