"""The examples of the page for Python run as they stand there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from training import ROOT, environment

PAGE = ROOT / "trainer" / "calls" / "README.md"


def test_the_examples_of_the_page_run(corpus: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
    assert len(blocks) == 6
    (tmp_path / "corpora").mkdir()
    shutil.copytree(corpus, tmp_path / "corpora" / "mine")
    checks = """
assert result.state == "done" and set(losses) == {1e-3, 3e-3} and best_lr in losses
assert [step for step, loss in curve] == [3, 6, 9, 12] and events[0] == "start"
assert len(text.split()) > 3 and len(second.nats) == 3 and states.shape == (3, 160)
assert log_probs.exp().sum().sub(1).abs() < 1e-4
"""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, checks])],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "done 12 Best(loss=" in done.stdout
    assert "'train.max_step' is no field (did you mean 'train.max_steps'?)" in done.stdout
