"""Fixtures of many tests."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import training
from child import Child
from claiming import HERE
from saved_checkpoints import contents
from triton_device import interpret

from trainer.launchers import RENDEZVOUS
from trainer.training.opening.claim import Claim

# A loaded machine is slow to draw examples; what is drawn is none the worse for it.
hypothesis.settings.register_profile(
    "loaded", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("loaded")

# What a shell starts in the background ignores interrupts, and hands that down to what the tests
# start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup hangups


#: Where tests wait for a cluster, and where they take the longest: begun in this order.
LONG = ("tests/launch/slurm", "tests/whole", "tests/soak", "tests/model", "tests/engine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out modules in the order of collection, and all of Slurm's, one cluster's, together."""
    from xdist.scheduler import LoadScopeScheduling

    class Modules(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return LONG[0] if nodeid.startswith(LONG[0]) else super()._split_scope(nodeid)

    return Modules(config, log)


def pytest_collection_modifyitems(config, items):
    """Begin with what takes long, if several processes test: at the end nobody waits for it."""
    if getattr(config.option, "dist", "no") != "no" or hasattr(config, "workerinput"):
        items.sort(key=lambda item: [not item.nodeid.startswith(room) for room in LONG])


def _same_rendezvous_afterwards():
    """Restore who this process is: commands that run in it say so in its environment."""
    before = {key: os.environ.get(key) for key in RENDEZVOUS}
    yield
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


@pytest.fixture(scope="module", autouse=True)
def _rendezvous_of_a_module():
    yield from _same_rendezvous_afterwards()


@pytest.fixture(autouse=True)
def _rendezvous_of_a_test():
    yield from _same_rendezvous_afterwards()


def _same_signals_afterwards():
    """Restore the handlers of signals: a command that ends in this process ignores them."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.fixture(scope="module", autouse=True)
def _signals_of_a_module():
    yield from _same_signals_afterwards()


@pytest.fixture(autouse=True)
def _signals_of_a_test():
    yield from _same_signals_afterwards()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Return a small corpus of several documents."""
    return training.make_corpus(tmp_path_factory.mktemp("corpora") / "stories")


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory):
    """Yield the directory of a run of six steps that validated, sampled, profiled and drew curves.

    Many tests read it: one that files something copies it first.
    """
    flags = [
        "--train.max-steps",
        "6",
        "--valid.interval-steps",
        "3",
        "--checkpoint.interval-steps",
        "2",
        "--checkpoint.keep-last",
        "9",
        "--sample.interval-steps",
        "3",
        "--sample.n-tokens",
        "8",
        "--sample.prompt",
        "the miller",
        "--tracking.tensorboard",
        "True",
        "--profile",
        "2:4",
    ]
    case = training.Case(tmp_path_factory.mktemp("trained") / "run", flags=flags)
    training.run_cases([case], corpus=corpus, n_ranks=1)
    before = contents(case.run_dir)
    yield case.run_dir
    assert contents(case.run_dir).keys() == before.keys()


@pytest.fixture(params=["locks", "no locks"])
def run_dir(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run directory, on a file system with locks and on one without."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def claim_of(run_dir: Path) -> Iterator[Callable[..., Claim]]:
    """Yield a function that claims the directory for a process of a number, at a place."""
    taken: list[Claim] = []

    def _claim_of(here=HERE) -> Claim:
        taken.append(Claim(run_dir, here=here))
        assert taken[-1].take()
        return taken[-1]

    yield _claim_of
    for claim in taken:
        claim.release()


@pytest.fixture
def child() -> Iterator["subprocess.Popen[str]"]:
    """Yield a process that waits for its end."""
    waits = [sys.executable, "-c", "print(flush=True); input()"]
    with Child(waits, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run Triton's kernels without a GPU, if there is none."""
    interpret(monkeypatch)
