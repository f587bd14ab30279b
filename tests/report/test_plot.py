"""The loss curves of runs are drawn into a file, or it is said what is missing."""

from pathlib import Path

import pytest
from reported_runs import make_run, read

from trainer.errors import InputError
from trainer.report.plot import plot_losses


def test_a_plot_is_drawn_or_its_package_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run $x")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="pip install matplotlib"):
            plot_losses(read([run]), tmp_path / "loss.png")
        assert not (tmp_path / "loss.png").exists()
        return
    plot_losses(read([run]), tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"--plot .*loss\.abc cannot be drawn"):
        plot_losses(read([run]), tmp_path / "loss.abc")
