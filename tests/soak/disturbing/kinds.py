"""The kinds of disturbances: what is done to a training, and what may come of it."""

import contextlib
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from disturbing.jobs import REAL, WARM, Job
from trainer.checkpoint.pointers import name_of, step_of
from trainer.track.record.records import METRICS_FILE

#: Seconds for a draft of a checkpoint to appear.
_DRAFT_S = 20.0


@dataclass
class Scene:
    """A training that is to be disturbed."""

    run_dir: Path
    corpus: Path
    faults: Path
    """The folder that `disturbed_model` looks at."""
    draw: Random
    job: Job
    start: Callable[[], Job]
    """Starts the same command once more, beside the first."""
    broken: set[int] = field(default_factory=set)
    """Steps of checkpoints that were broken on purpose."""
    frozen: list[int] = field(default_factory=list)
    """Processes that cannot end by themselves."""

    def one_rank(self) -> list[int]:
        """Return the process of a rank that is drawn."""
        ranks = self.job.find_ranks()
        return [ranks[self.draw.choice(sorted(ranks))]] if ranks else []

    def rank_0(self) -> list[int]:
        """Return the process of rank 0, which writes the record."""
        ranks = self.job.find_ranks()
        return [ranks[0]] if 0 in ranks else []

    def all_ranks(self) -> list[int]:
        """Return the processes that train."""
        return list(self.job.find_ranks().values())

    def ask(self, fault: str) -> int:
        """Ask a rank that is drawn, and returned, for a fault from inside."""
        rank = self.draw.choice(sorted(self.job.find_ranks()) or [0])
        draft = self.faults / "draft"
        draft.write_text(fault)
        draft.rename(self.faults / f"rank-{rank}")
        return rank

    def end_at_once(self) -> None:
        """Kill all of it, as a power cut does."""
        self.job.send(signal.SIGKILL, self.job.launchers() + self.all_ranks())
        self.job.kill()

    def whole_steps(self) -> list[int]:
        """Return the steps of whole checkpoints, oldest first."""
        found = (step_of(path.name) for path in (self.run_dir / "checkpoints").glob("step-*"))
        return sorted(step for step in found if step is not None and step not in self.broken)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of disturbance."""

    name: str
    do: Callable[[Scene], None]
    is_hard: bool = False
    """True if processes end, or cannot go on, before they could save."""
    goes_on: bool = False
    """True if the training goes on in the same processes."""
    launchers: tuple[str, ...] = (WARM, *REAL)
    weight: float = 1.0
    flags: tuple[str, ...] = ()
    """Flags with which the attempt is started."""
    elastic: bool = False
    """True if the next attempts have other ranks or another stage."""


def _signals(number: int, whom: Callable[[Scene], list[int]]) -> Callable[[Scene], None]:
    return lambda scene: scene.job.send(number, whom(scene))


def _launcher(scene: Scene) -> list[int]:
    return scene.job.launchers()[:1]


def _with_launcher(scene: Scene) -> list[int]:
    return scene.job.launchers() + scene.all_ranks()


def _asks(fault: str) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        scene.ask(fault)

    return do


def _stop_a_rank(scene: Scene) -> None:
    scene.frozen = scene.one_rank()
    scene.job.send(signal.SIGSTOP, scene.frozen)


def _hold_a_lock(scene: Scene) -> None:
    rank = scene.ask("held lock")
    scene.frozen = [pid for of, pid in scene.job.ranks.items() if of == rank]


def _in_a_save(whom: Callable[[Scene], list[int]]) -> Callable[[Scene], None]:
    """Kill while a draft of a checkpoint lies there."""

    def do(scene: Scene) -> None:
        pids, folder = whom(scene), scene.run_dir / "checkpoints"
        deadline = time.monotonic() + _DRAFT_S
        while time.monotonic() < deadline and not list(folder.glob(".writing-*")):
            time.sleep(0.001)
        scene.job.send(signal.SIGKILL, pids)

    return do


def _pause(scene: Scene) -> None:
    pids = scene.one_rank()
    scene.job.send(signal.SIGSTOP, pids)
    time.sleep(scene.draw.uniform(0.2, 1.5))
    scene.job.send(signal.SIGCONT, pids)


def _ctrl_c_twice(scene: Scene) -> None:
    for _ in range(2):
        scene.job.send(signal.SIGINT, scene.all_ranks())
        time.sleep(0.01)  # signals that wait to be delivered do not add up


def _full_disk(then: int | None) -> Callable[[Scene], None]:
    """Let rank 0 write no file beyond 2 kB for a while; and then send it a signal."""

    def do(scene: Scene) -> None:
        for pid in scene.rank_0():
            before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (2048, before[1]))
            time.sleep(scene.draw.uniform(0.2, 1.0))
            if then is not None:
                scene.job.send(then, scene.all_ranks())
                return
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    return do


def _second_start(scene: Scene) -> None:
    """Start the same command beside it, which is refused."""
    second = scene.start()
    while not (second.has_ended() or second.ended_ranks()):
        time.sleep(0.05)
    second.kill()  # as a launcher does when one rank has failed


def _wait(scene: Scene) -> None:
    """Do nothing: the attempt ends by itself."""
    del scene


def _stop_file(scene: Scene) -> None:
    (scene.run_dir / "STOP").touch()


def _damages(damage: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Kill all of it, then damage what it left."""

    def do(scene: Scene) -> None:
        scene.end_at_once()
        damage(scene)

    return do


def _break_newest(damage: Callable[[Path, Random], None]) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        whole = scene.whole_steps()
        if len(whole) > 1:  # or nothing would be left to go on from
            folder = scene.run_dir / "checkpoints" / name_of(whole[-1])
            files = sorted(path for path in folder.iterdir() if path.stat().st_size > 0)
            damage(scene.draw.choice(files), scene.draw)
            scene.broken.add(whole[-1])

    return _damages(do)


def _flip(file: Path, draw: Random) -> None:
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def _truncate(file: Path, draw: Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: draw.randrange(len(data))])


def _break_pointers(scene: Scene) -> None:
    for name in ("latest", "best"):
        (scene.run_dir / "checkpoints" / name).write_bytes(scene.draw.randbytes(12))


def _tear_the_record(scene: Scene) -> None:
    with (scene.run_dir / METRICS_FILE).open("ab") as file:
        file.write(b'{"schema": 1, "kind": "train", "att')


def _zero_the_status(scene: Scene) -> None:
    (scene.run_dir / "status.json").write_bytes(bytes(512))


def _cut_the_configuration(scene: Scene) -> None:
    file = scene.run_dir / "config.json"
    file.write_bytes(file.read_bytes()[:100])


def _take_the_corpus_away(scene: Scene) -> None:
    """Start it without its corpus, which is refused, and bring the corpus back."""
    away = scene.corpus.with_name(f"{scene.corpus.name} away")
    scene.corpus.rename(away)
    try:
        _second_start(scene)
    finally:
        shutil.move(away, scene.corpus)


KINDS = (
    # From outside, by signals.
    Kind(name="SIGKILL to a rank", is_hard=True, do=_signals(9, Scene.one_rank), weight=3),
    Kind(name="SIGKILL to all", is_hard=True, do=Scene.end_at_once, weight=2),
    Kind(name="SIGKILL to the launcher", is_hard=True, do=_signals(9, _launcher), launchers=REAL),
    Kind(name="SIGKILL of a rank in a save", is_hard=True, do=_in_a_save(Scene.one_rank), weight=2),
    Kind(name="SIGKILL of all in a save", is_hard=True, do=_in_a_save(Scene.all_ranks), weight=2),
    Kind(name="SIGABRT to a rank", is_hard=True, do=_signals(signal.SIGABRT, Scene.one_rank)),
    Kind(name="SIGSTOP to a rank", do=_stop_a_rank, weight=0.5),
    Kind(name="pause of a rank", goes_on=True, do=_pause, weight=3),
    Kind(name="SIGTERM to a rank", do=_signals(signal.SIGTERM, Scene.one_rank), weight=3),
    Kind(name="SIGTERM to all", do=_signals(signal.SIGTERM, Scene.all_ranks), weight=3),
    Kind(name="SIGTERM to the launcher", do=_signals(signal.SIGTERM, _launcher), launchers=REAL),
    Kind(name="SIGUSR1 to a rank", do=_signals(signal.SIGUSR1, Scene.one_rank), weight=3),
    Kind(name="SIGUSR2 to all", do=_signals(signal.SIGUSR2, Scene.all_ranks), weight=3),
    Kind(name="SIGHUP to all", do=_signals(signal.SIGHUP, Scene.all_ranks), weight=3),
    Kind(name="Ctrl-C", do=_signals(signal.SIGINT, Scene.all_ranks), weight=3),
    Kind(name="Ctrl-C twice", is_hard=True, do=_ctrl_c_twice),
    # From inside.
    Kind(name="exception in a pass", is_hard=True, do=_asks("exception")),
    Kind(name="exception from a thread", is_hard=True, do=_asks("asynchronous exception")),
    Kind(name="segmentation fault", is_hard=True, do=_asks("segmentation fault")),
    Kind(name="exit of a rank", is_hard=True, do=_asks("exit")),
    Kind(name="interpreter's lock held", do=_hold_a_lock, weight=0.5),
    Kind(name="slow rank", goes_on=True, do=_asks("slow"), weight=3),
    Kind(name="broken connections", is_hard=True, do=_asks("broken connections")),
    Kind(name="no memory left", is_hard=True, do=_asks("no memory")),
    # By other means.
    Kind(name="STOP file", do=_stop_file, weight=3),
    Kind(
        name="time limit",
        do=_wait,
        flags=("--limits.time-limit-s", "3"),
        launchers=(WARM,),
    ),
    Kind(name="second start", goes_on=True, do=_second_start, launchers=(WARM,)),
    Kind(name="full disk", goes_on=True, do=_full_disk(None)),
    Kind(name="full disk, then SIGTERM", is_hard=True, do=_full_disk(signal.SIGTERM)),
    Kind(
        name="flipped bit in the newest checkpoint",
        is_hard=True,
        do=_break_newest(_flip),
        weight=0.5,
    ),
    Kind(name="newest checkpoint cut", is_hard=True, do=_break_newest(_truncate), weight=0.5),
    Kind(
        name="file of the newest checkpoint gone",
        is_hard=True,
        do=_break_newest(lambda file, _: file.unlink()),
        weight=0.5,
    ),
    Kind(name="pointers broken", is_hard=True, do=_damages(_break_pointers), weight=0.5),
    Kind(name="record torn", is_hard=True, do=_damages(_tear_the_record), weight=0.5),
    Kind(name="status of zeros", is_hard=True, do=_damages(_zero_the_status), weight=0.5),
    Kind(name="configuration cut", is_hard=True, do=_damages(_cut_the_configuration), weight=0.5),
    Kind(
        name="corpus away for a start",
        is_hard=True,
        do=_damages(_take_the_corpus_away),
        weight=0.5,
        launchers=(WARM,),
    ),
    Kind(
        name="other ranks or stage",
        elastic=True,
        do=_signals(signal.SIGTERM, Scene.all_ranks),
        weight=6,
    ),
)
