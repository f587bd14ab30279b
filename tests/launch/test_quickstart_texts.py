"""What the quick start trains on is the same wherever the version of Python is."""

import runpy
import sysconfig
from pathlib import Path

from training import ROOT


def texts(library: Path) -> list[str]:
    """Return the quick start's files, relative to the library."""
    found = runpy.run_path(str(ROOT / "launch" / "quickstart_texts.py"))["texts"](library)
    return [str(path.relative_to(library)) for path in found]


def test_what_a_build_or_its_owner_adds_to_the_library_is_not_read(tmp_path: Path) -> None:
    kept = ["argparse.py", "email/charset.py", "email/mime/base.py", "json/decoder.py"]
    added = [
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "config-3.11-x86_64-linux-gnu/config.py",
        "site-packages/torch/__init__.py",
        "dist-packages/yaml/__init__.py",
        "sitecustomize.py",
        "tkinter/ttk.py",
        "test/test_json.py",
        "ctypes/macholib/dyld.py",
        "trainer.py",
    ]
    for name in kept + added:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert texts(tmp_path) == kept


def test_this_interpreters_library_is_enough_to_train_on() -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    n_bytes = sum((library / name).stat().st_size for name in texts(library))
    assert n_bytes > 7_000_000
