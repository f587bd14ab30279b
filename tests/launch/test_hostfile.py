"""A hostfile is read as DeepSpeed reads it, and a machine finds its line."""

import runpy
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from deepspeed.launcher.runner import fetch_hostfile
from hypothesis import given
from hypothesis import strategies as st
from training import ROOT, environment

from trainer.errors import Exit

HOSTFILE = str(ROOT / "launch" / "hostfile.py")
launch = SimpleNamespace(**runpy.run_path(HOSTFILE))

NAMES = ["worker-1", "worker-2", "a.long.name.example", "me@worker-2", "10.0.0.7", "\u00e9", "#x"]
BLANKS = st.sampled_from(["", " ", "\t", " \t ", "\u00a0"])
SLOTS = st.sampled_from(
    ["slots=1", "slots=16", "slots=4x", "slots=", "slots = 4", "Slots=4", "8", ""]
)
TAILS = st.sampled_from(["", " # mine", "# mine", " max_slots=8", " slots=2"])
ENTRIES = st.tuples(BLANKS, st.sampled_from(NAMES), BLANKS, SLOTS, TAILS).map("".join)
LINES = st.lists(ENTRIES | st.sampled_from(["", "  ", "# none", "worker-1\tslots=2"]), max_size=4)


@given(lines=LINES, end=st.sampled_from(["\n", "\r\n"]))
def test_it_is_read_as_deepspeed_reads_it(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str
) -> None:
    path = tmp_path_factory.mktemp("hosts") / "hosts"
    path.write_bytes(end.join(lines).encode())
    try:
        theirs = list(fetch_hostfile(str(path)))
    except ValueError:
        with pytest.raises(ValueError, match=r"^ line \d+: |^: it names no machine"):
            launch.read_hosts(path)
    else:
        assert launch.read_hosts(path) == [name.rpartition("@")[2] for name in theirs]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a slots=1\n\na slots=2\n", " line 3: 'a' is named a second time"),
        (b"# one\nb 8\n", " line 2: 'b 8' is not `NAME slots=GPUS`"),
        (b"a slots=1\nb slots=0\n", " line 2: 'b' has no slots: leave the line out"),
        (b"a slots=1 # M\xfcller\n", " line 1: not UTF-8"),
        (b"\n# none\n", ": it names no machine"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(tmp_path: Path, text: bytes, told: str) -> None:
    (tmp_path / "hosts").write_bytes(text)
    with pytest.raises(ValueError, match=f"^{told}"):
        launch.read_hosts(tmp_path / "hosts")


@pytest.mark.parametrize(
    ("hosts", "own", "rank"),
    [
        (["a", "b"], "b", 1),
        (["A", "B"], "b", 1),
        (["a.site.example", "b.site.example"], "b", 1),
        (["a", "b"], "b.site.example", 1),
        (["b.site.example", "b"], "b", 1),
        (["b.here.example", "b.there.example"], "b.there.example", 1),
    ],
)
def test_a_machine_is_known_by_its_name_short_or_in_full(
    hosts: list[str], own: str, rank: int
) -> None:
    assert launch.node_rank(hosts, own) == rank


def test_a_name_that_fits_several_machines_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b may be any of 'b\.here', 'b\.there': set NODE_RANK"):
        launch.node_rank(["b.here", "b.there"], "b")


@pytest.mark.parametrize("own", ["c", "b.elsewhere"])
def test_a_machine_that_is_not_named_is_told_so(own: str) -> None:
    with pytest.raises(ValueError, match=f" does not name {own}: add it, or set NODE_RANK"):
        launch.node_rank(["127.0.0.1", "b.invalid"], own)


def own_address() -> str | None:
    """Return an address of this machine that others could reach, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])


@pytest.mark.skipif(own_address() is None, reason="this machine is on no network")
def test_a_machine_is_known_by_its_address() -> None:
    assert launch.node_rank(["198.51.100.77", str(own_address())], "c") == 1


def test_a_machine_may_be_told_its_line() -> None:
    assert launch.node_rank(["a", "b"], "c", given="1") == 1
    for told in ("2", "-1", "first"):
        with pytest.raises(ValueError, match=f"machines 0 to 1, but NODE_RANK is {told}"):
            launch.node_rank(["a", "b"], "c", given=told)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["no such file", "quickstart", "--data", "x"], "error: no such file: no such file\n"),
        (["/dev/null", "quickstart", "--data", "x"], "error: /dev/null: no such file\n"),
        (["hosts"], "error: usage: bash launch/multi_node.sh HOSTFILE RECIPE "),
    ],
)
def test_the_script_says_what_is_wrong_in_a_line(command: list[str], told: str) -> None:
    script = str(ROOT / "launch" / "multi_node.sh")
    done = subprocess.run(
        ["bash", script, *command], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.BAD_INPUT
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == 1
