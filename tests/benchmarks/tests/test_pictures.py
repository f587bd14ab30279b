"""The pictures are what their script draws, of the numbers that stand beside them."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from training import ROOT, environment

HERE = ROOT / "tests" / "benchmarks"


@pytest.fixture(scope="module")
def drawn(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the script has drawn the pictures of one run, twice."""
    folder = tmp_path_factory.mktemp("pictures")
    command = [sys.executable, HERE / "pictures.py", "--out", folder]
    command += ["--memory", trained, "--none", trained]
    subprocess.run(list(map(str, command)), env=environment(), check=True)
    return folder


@pytest.mark.parametrize("name", ["streams.svg", "reach.svg", "speed.svg", "quickstart.svg"])
def test_a_picture_is_whole_says_what_it_shows_and_knows_both_themes(
    drawn: Path, name: str
) -> None:
    root = ElementTree.fromstring((drawn / name).read_text())
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert len(title.text or "") > 20
    assert "prefers-color-scheme: dark" in (drawn / name).read_text()
    assert (HERE / "pictures" / name).is_file()


@pytest.mark.parametrize("name", ["streams.svg", "reach.svg", "speed.svg"])
def test_the_pictures_in_the_tree_are_those_of_its_numbers(drawn: Path, name: str) -> None:
    assert (HERE / "pictures" / name).read_text() == (drawn / name).read_text()


def test_the_bars_are_the_tables(drawn: Path) -> None:
    table = (HERE / "README.md").read_text()
    times = re.findall(r"^\| `[\w/-]+` \| (?:fp32|bf16 autocast) \| ([\d.]+) ", table, re.M)
    assert len(times) == 7
    shown = re.findall(r">(\d\.\d\d)<", (drawn / "speed.svg").read_text())
    assert shown == times
