"""The soak's log, a line of JSON for each disturbance and for each run's end; and its table."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Disturbance(_Line):
    """A disturbance, and what became of the run."""

    what: Literal["disturbance"] = "disturbance"
    seed: int
    run: int
    number: int
    kind: str
    is_hard: bool
    launcher: str
    ranks: int
    ds_config: str
    step: int
    """The newest step in the record when it happened."""
    ended: str
    """State and reason in the run's status, or that it went on."""
    whole: int
    """The step of the newest whole checkpoint that was left; 0 is none."""
    resumed: int
    """The step from which the run went on."""
    seconds: float
    """From the disturbance to the first step beyond `step`."""
    orphans: int
    hung: bool

    @property
    def steps_lost(self) -> int:
        """Return the steps lost beyond the newest whole checkpoint."""
        return max(self.whole - self.resumed, 0)


class End(_Line):
    """The end of a run, compared with the same run undisturbed."""

    what: Literal["end"] = "end"
    seed: int
    run: int
    elastic: bool
    differs: list[str]
    """The parts that are not those of the undisturbed run; of an elastic one, beyond rounding."""
    kept: int
    """Steps of the run."""
    computed: int
    """Steps in its record, those that were done again among them."""
    strange: list[str]
    """Attempts that ended and nobody had disturbed them."""
    commit: str
    versions: str
    furthest: float = 0.0
    """The largest relative difference of a loss; 0 unless ranks or stages changed."""


class Log:
    """A log that a later command goes on with."""

    def __init__(self, path: Path) -> None:
        """Read what there is; lines of a run without an end are removed, for it begins again."""
        self._path = path
        self.disturbances: list[Disturbance] = []
        self.ends: list[End] = []
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        ended = {(record["seed"], record["run"]) for record in records if record["what"] == "end"}
        kept = [record for record in records if (record["seed"], record["run"]) in ended]
        for record in kept:
            if record["what"] == "end":
                self.ends.append(End(**record))
            else:
                self.disturbances.append(Disturbance(**record))
        if len(kept) < len(lines):
            path.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def add(self, line: Disturbance | End) -> None:
        """Append a line, on the disk before this returns."""
        with self._path.open("a") as file:
            file.write(line.model_dump_json() + "\n")
        if isinstance(line, End):
            self.ends.append(line)
        else:
            self.disturbances.append(line)

    def next_run(self, seed: int) -> int:
        """Return the number of the seed's first run that has not ended."""
        return 1 + max((end.run for end in self.ends if end.seed == seed), default=-1)

    def faults(self) -> list[str]:
        """Return what must not be, a sentence each."""
        found = []
        for one in self.disturbances:
            where = f"seed {one.seed}, run {one.run}, disturbance {one.number} ({one.kind})"
            if one.steps_lost:
                found.append(f"{where}: {one.steps_lost} steps lost beyond a whole checkpoint")
            if one.orphans:
                found.append(f"{where}: {one.orphans} orphans")
            if one.hung:
                found.append(f"{where}: hung")
        for end in self.ends:
            where = f"seed {end.seed}, run {end.run}"
            found += [f"{where}: another {what}" for what in end.differs]
            found += [f"{where}: an attempt ended by itself: {told}" for told in end.strange]
        return found

    def table(self) -> str:
        """Return the tables of kinds and launchers, and the sums, as Markdown."""
        rows = ["| kind | times | hard | steps done again, median | back after, median |"]
        rows.append("|---|---|---|---|---|")
        for kind, times in Counter(one.kind for one in self.disturbances).most_common():
            of_kind = [one for one in self.disturbances if one.kind == kind]
            again = statistics.median(max(one.step - one.resumed, 0) for one in of_kind)
            seconds = statistics.median(one.seconds for one in of_kind)
            hard = "yes" if of_kind[0].is_hard else ""
            rows.append(f"| {kind} | {times} | {hard} | {again:.0f} | {seconds:.1f} s |")
        launchers = Counter(one.launcher for one in self.disturbances)
        files = Counter(one.ds_config for one in self.disturbances)
        said = [
            *rows,
            "",
            f"Under {_listed(launchers)}; with {_listed(files)}.",
            self.summary(),
        ]
        return "\n".join(said)

    def summary(self) -> str:
        """Return the sums in a sentence."""
        done, ends = self.disturbances, self.ends
        if not done or not ends:
            return "Nothing has ended."
        back = statistics.median(one.seconds for one in done)
        kept, computed = sum(end.kept for end in ends), sum(end.computed for end in ends)
        return (
            f"{len(done)} disturbances of {len({one.kind for one in done})} kinds in {len(ends)} "
            f"runs, {sum(one.is_hard for one in done)} of them hard, "
            f"{sum(one.launcher != 'warm' for one in done)} under a launcher: "
            f"{sum(one.steps_lost for one in done)} steps lost beyond the last whole checkpoint, "
            f"{sum(len(end.differs) for end in ends)} silent changes, "
            f"{sum(one.orphans for one in done)} orphans, {sum(one.hung for one in done)} hangs; "
            f"goodput {kept / computed:.3f}, median time to recover {back:.1f} s."
        )


def _listed(counts: "Counter[str]") -> str:
    return ", ".join(f"{name} {times}" for name, times in counts.most_common())


class Following:
    """A reader of a run's record that goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        """Follow the record at `path`, which may not be there yet."""
        self._path, self._read, self._rest = path, 0, b""
        self.step = 0
        """The newest step in the record."""
        self.n_computed = 0
        """Records of steps, those of steps that were done again among them."""
        self.attempt = 0
        """The newest attempt that has a record."""
        self.began: dict[int, int] = {}
        """By attempt, the step from which it went on."""

    def look(self) -> None:
        """Read what was written since."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for record in _records(lines):
            self.attempt = max(self.attempt, record["attempt"])
            if record["kind"] == "train":
                self.step, self.n_computed = record["step"], self.n_computed + 1
            if record["kind"] == "event" and record["event"] in ("start", "resume"):
                self.began[record["attempt"]] = self.step = record["step"]


def _records(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue  # torn
