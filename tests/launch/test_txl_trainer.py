"""The commands are this package's own, whatever else is called `trainer` where they are typed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training import ROOT, environment

from trainer.errors import Exit

#: What others call so: PyPI's package, a script, a folder of DeepSpeed files, a command's name.
FOREIGN = """raise SystemExit("another trainer ran")\n"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a folder in which somebody has files of their own under our names."""
    folder = tmp_path / "my models"
    (folder / "ds_configs").mkdir(parents=True)
    for name in ("trainer.py", "launch.py", "ds_configs/__init__.py"):
        (folder / name).write_text(FOREIGN)
    (folder / "train.py").write_text("def build(config, vocabulary_size):\n    return None\n")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the built wheel is installed, as into site-packages."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "txl_trainer.py"):
        shutil.copy(ROOT / name, source)
    for name in ("trainer", "ds_configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    site = tmp_path_factory.mktemp("site") / "packages"
    pip(["wheel", "--no-build-isolation", "--wheel-dir", str(source / "dist"), str(source)])
    (wheel,) = (source / "dist").glob("*.whl")
    pip(["install", "--target", str(site), str(wheel)])
    return site


def pip(arguments: list[str]) -> None:
    what, *rest = arguments
    quietly = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    command = [sys.executable, "-m", "pip", what, *quietly, *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run(command: list[str], folder: Path, root: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(PYTHONPATH=f".:{root}"),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_of_an_installed_package_is_its_own(elsewhere: Path, installed: Path) -> None:
    for txl in ([str(installed / "bin" / "txl")], ["-m", "txl_trainer"]):
        listed = run([*txl, "recipes"], elsewhere, installed)
        assert listed.returncode == Exit.DONE, listed.stderr
        assert listed.stdout.startswith("enwik8-base")
        shown = run([*txl, "config", "show", "quickstart"], elsewhere, installed)
        assert shown.returncode == Exit.DONE, shown.stderr
        assert "train_micro_batch_size_per_gpu" in shown.stdout


def test_all_of_the_package_is_installed(installed: Path) -> None:
    for package in ("trainer", "ds_configs"):
        for file in (ROOT / package).rglob("*"):
            if file.suffix in (".py", ".json", ".html", ".css"):
                assert (installed / file.relative_to(ROOT)).is_file()


def test_the_training_command_of_a_checkout_is_its_own(elsewhere: Path) -> None:
    shown = run([str(ROOT / "launch" / "train.py"), "quickstart", "--help"], elsewhere)
    assert shown.returncode == Exit.DONE, shown.stderr
    assert "--train.max-steps" in shown.stdout


def test_python_code_takes_its_own_also_after_another(elsewhere: Path) -> None:
    package = elsewhere / "trainer"
    package.mkdir()
    for name in ("__init__.py", "records.py"):
        (package / name).write_text("THEIRS = 1\n")
    code = """
import trainer, trainer.track.record.records
assert trainer.THEIRS
import txl_trainer
for _ in range(2):
    txl_trainer.own_trainer()
    import trainer
    from trainer.track.record.records import METRICS_FILE
    kept = globals().setdefault("kept", trainer)
    assert trainer is kept
print(METRICS_FILE, trainer.load.__name__)
"""
    done = run(["-c", code], elsewhere)
    assert done.stdout.split() == ["metrics.jsonl", "load"], done.stderr


def test_a_model_of_one_s_own_may_be_called_train(elsewhere: Path, corpus: Path) -> None:
    flags = ["--data", str(corpus), "--model.factory", "train:build", "--dry-run"]
    refused = run([str(ROOT / "launch" / "train.py"), "quickstart", *flags], elsewhere)
    assert refused.returncode == Exit.BAD_INPUT
    assert "'train:build' gives a NoneType" in refused.stderr


@pytest.mark.parametrize("how", ["installed over it", "removed"])
def test_another_package_in_the_same_place_is_told(
    tmp_path: Path, installed: Path, how: str
) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    if how == "removed":
        (site / "trainer" / "__init__.py").unlink()
    else:
        (site / "trainer" / "__init__.py").write_text(FOREIGN)
    refused = run(["-m", "txl_trainer", "recipes"], tmp_path, site)
    assert refused.returncode == Exit.BAD_INPUT
    assert refused.stdout == ""
    assert "another package called trainer was installed over it or removed" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
