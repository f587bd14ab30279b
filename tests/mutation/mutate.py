"""Seeds faults into the source, one at a time, and says which of them no test finds.

    python tests/mutation/mutate.py --log mutation.jsonl            # 20 a room, and those by hand
    python tests/mutation/mutate.py --log mutation.jsonl --table    # what the log says
    python tests/mutation/mutate.py --log mutation.jsonl --again    # survivors against new tests

Each fault is tried in a copy of the tree: the tests of its room run up to the first failure. A
fault after which a test goes on for too long counts as found. What has been tried stands in the
log, a line a fault; the command goes on where its log ended. `operators.py` says what is changed,
`rooms.py` where, and which faults were written by hand; `equivalent.py` which change nothing.
"""

import argparse
import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

from equivalent import EQUIVALENT
from operators import Fault
from rooms import ROOMS, Room, of_all

ROOT = Path(__file__).parents[2]
#: Seconds that the tests of a room may take; a single test of ours is far below the first.
TEST_LIMIT_S, ROOM_LIMIT_S = 240, 1800


def copy_tree(to: Path) -> Path:
    """Return a copy of all files of the tree that git keeps or would keep."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def tested(tree: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """Return Pytest's exit code in a copy, and the first test that fails; 1 where time is up."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [f"--timeout={TEST_LIMIT_S}", *tests]
    environ = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        cwd=tree,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=ROOM_LIMIT_S)
        except subprocess.TimeoutExpired:
            said = "FAILED no end"
            process.returncode = 1
        finally:
            with contextlib.suppress(ProcessLookupError):  # ranks that a failed test has left
                os.killpg(process.pid, signal.SIGKILL)
    failed = re.search(r"^(?:FAILED|ERROR) (.*)$", said, flags=re.M)
    return process.returncode, (failed[1] if failed else said.strip())[-300:]


def tried(tree: Path, room: Room, fault: Fault) -> dict[str, Any]:
    """Return the log's line about a fault; the copy is as before."""
    file, began = tree / fault.file, time.monotonic()
    source = file.read_bytes()
    file.write_bytes(fault.seeded(source))
    try:
        code, first = tested(tree, room.tests)
    finally:
        file.write_bytes(source)
    if code not in (0, 1, 2):
        raise RuntimeError(f"{fault.id}: pytest ended with {code}: {first}")
    return {
        "fault": fault.id,
        "room": room.name,
        "operator": fault.operator,
        "found": code != 0,
        "by": first if code else None,
        "seconds": round(time.monotonic() - began, 1),
    }


def try_all(log: Path, pairs: list[tuple[Room, Fault]], *, jobs: int) -> None:
    """Try faults in as many copies of the tree, and add a line to the log as each is done."""
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()

    def one(pair: tuple[Room, Fault]) -> dict[str, Any]:
        tree = copies.get()
        try:
            return tried(tree, *pair)
        finally:
            copies.put(tree)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        for i in range(jobs):
            copies.put(copy_tree(Path(folder) / str(i)))
        with log.open("a") as file:
            for done in as_completed([pool.submit(one, pair) for pair in pairs]):
                file.write(json.dumps(done.result()) + "\n")
                file.flush()
                print(line_of(done.result()), flush=True)


def line_of(told: dict[str, Any]) -> str:
    """Return what a line of the log says, for people."""
    end = f"found by {told['by']}" if told["found"] else "SURVIVED"
    return f"{told['room']:10} {told['seconds']:6.0f} s  {told['fault']}  {end}"


def read_log(log: Path) -> dict[str, dict[str, Any]]:
    """Return the newest line of each fault."""
    lines = log.read_text().splitlines() if log.exists() else []
    return {told["fault"]: told for told in map(json.loads, lines)}


def why_the_same(fault: str) -> str | None:
    """Return why a fault, wherever in its file it is, changes nothing; None if it does."""
    return EQUIVALENT.get(re.sub(r":\d+: ", ": ", fault, count=1))


def table(tried_ones: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield lines of a table of rooms, and one for each survivor."""
    rooms: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for told in tried_ones.values():
        rooms[told["room"]].append(told)
    rooms["all"] = list(tried_ones.values())
    yield "| room | seeded | change nothing | found | share found |"
    yield "|---|---|---|---|---|"
    for name, faults in rooms.items():
        same = sum(why_the_same(told["fault"]) is not None for told in faults)
        found = sum(told["found"] for told in faults)
        share = found / max(1, len(faults) - same)
        yield f"| {name} | {len(faults)} | {same} | {found} | {share:.1%} |"
    for told in tried_ones.values():
        if not told["found"]:
            why = why_the_same(told["fault"])
            yield f"{'changes nothing' if why else 'SURVIVED'}: {told['fault']}" + (
                f": {why}" if why else ""
            )


def main() -> int:
    """Try what has not been tried, and print the table; 1 if less than 95 % is found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [room.name for room in ROOMS]
    parser.add_argument("--log", type=Path, required=True, help="lines of JSON, one per fault")
    parser.add_argument("--faults", type=int, default=20, help="per room, beside those by hand")
    parser.add_argument("--seed", type=int, default=1, help="draws the faults")
    parser.add_argument("--rooms", nargs="+", choices=names, default=names)
    parser.add_argument("--jobs", type=int, default=2, help="faults tried at once")
    parser.add_argument("--again", action="store_true", help="try those that no test found again")
    parser.add_argument("--table", action="store_true", help="try nothing")
    told = parser.parse_args()
    done = read_log(told.log)
    rooms = [room for room in ROOMS if room.name in told.rooms]
    pairs = [
        (room, fault)
        for room, fault in of_all(ROOT, rooms, n=told.faults, seed=told.seed)
        if fault.id not in done
        or (told.again and not done[fault.id]["found"] and why_the_same(fault.id) is None)
    ]
    if not told.table:
        try_all(told.log, pairs, jobs=told.jobs)
    everything = read_log(told.log)
    print("\n".join(table(everything)))
    missed = sum(
        not told["found"] and why_the_same(told["fault"]) is None for told in everything.values()
    )
    return int(missed > 0.05 * len(everything))


if __name__ == "__main__":
    sys.exit(main())
