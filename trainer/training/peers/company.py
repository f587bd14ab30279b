"""A block in which a rank trains in the company of others, and learns what becomes of them."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch.distributed as dist

from trainer.distributed import World, barrier, broadcast_object, gather_objects
from trainer.errors import Exit, InputError, LostRankError, ShortageError
from trainer.outside import printable
from trainer.track.run_files.status import read_status, write_status
from trainer.training.peers.board import Board, Note
from trainer.training.peers.lost import Lost, Peers
from trainer.training.peers.watchdog import Watchdog

#: Seconds between two signs of life, and the most that all ranks together write in a second.
BEAT_S, MOST_PER_S = 5.0, 20
#: Seconds for a file of another machine to be seen, and between two looks.
SEEN_S, LOOK_S = 5.0, 0.1
#: How errors of a connection begin or are worded by gloo, NCCL and the system.
_WORDS = ("gloo", "NCCL", "Connection reset", "Connection closed", "Broken pipe", "process group")


@contextlib.contextmanager
def in_company(
    world: World,
    run_dir: Path,
    *,
    limit_s: float,
    leave: Callable[[str, int], None],
) -> Iterator[None]:
    """Watch this rank and the others until the block ends. Collective at its beginning.

    Args:
        world: this process among its peers.
        run_dir: the claimed directory, which all ranks must see.
        limit_s: seconds without progress after which the rank ends, see `Watchdog`.
        leave: prints a line if there is one, and ends the process with a code, from any thread.

    Raises:
        InputError: on every rank; the ranks do not see one directory.
        LostRankError: the block failed because another rank had ended.
    """
    token = broadcast_object(secrets.token_hex(16), world)
    board = Board(run_dir, Note.of_this_process(world.rank, token=token))
    if world.is_main:
        board.remove()  # of an earlier attempt that was killed
    notes = gather_objects(board.note, world)
    refuse_unshared(board, notes, run_dir, world)
    beat_s = min(max(BEAT_S, world.world_size / MOST_PER_S), limit_s / 4)
    peers = Peers(board, notes, beat_s=beat_s)

    def end(found: Lost) -> None:
        speaks = _leave_word(found, board, peers, run_dir)
        leave(found.told if speaks else "", found.code)

    watchdog = Watchdog(
        world.progress,
        board=board if world.world_size > 1 else None,
        peers=peers,
        limit_s=limit_s,
        beat_s=beat_s,
        log_file=run_dir / "logs" / f"rank-{world.rank:05d}.log",
        on_end=end,
    )
    watchdog.start()
    try:
        yield
        barrier(world)
    except InputError:  # of all ranks
        watchdog.close()
        board.withdraw()
        raise
    except Exception as error:
        watchdog.close()
        if world.world_size > 1:
            _explain(error, board, peers, run_dir)
        raise
    finally:
        watchdog.close()
    if world.is_main:
        board.remove()


def refuse_unshared(board: Board, notes: list[Note], run_dir: Path, world: World) -> None:
    """Write this rank's note, and make sure that all ranks see one another's. Collective.

    Raises:
        InputError: on every rank; names the ranks that write elsewhere.
    """
    if world.world_size == 1:
        return
    board.begin()
    barrier(world)
    others = notes[:1] if not world.is_main else notes[1:]
    unseen = _unseen(board, [note.rank for note in others])
    apart = gather_objects((str(run_dir.absolute()), sorted(unseen)), world)
    alone = {rank for rank, (_, ranks) in enumerate(apart) if rank and ranks} | set(apart[0][1])
    if alone:
        first = min(alone)
        board.withdraw()
        raise InputError(
            f"--run-dir {run_dir.name} is not the same folder on all ranks: {notes[first]} has it "
            f"at {printable(apart[first][0])}, and does not see there what {notes[0]} writes at "
            f"{printable(apart[0][0])}: give a folder of a file system that all hosts share"
        )


def _unseen(board: Board, ranks: list[int]) -> set[int]:
    """Return the ranks whose notes are not seen, although another machine has had time."""
    until, waiting = time.monotonic() + SEEN_S, threading.Event()
    unseen = set(ranks)
    while unseen and time.monotonic() < until:
        unseen -= {rank for rank in unseen if board.read(rank) is not None}
        if unseen:
            waiting.wait(LOOK_S)
    return unseen


def _explain(error: Exception, board: Board, peers: Peers, run_dir: Path) -> None:
    """Say on the board why this rank leaves; raise `LostRankError` if another is the reason."""
    if isinstance(error, ShortageError):  # a rank in NCCL hears of it here alone
        board.write(left=str(error), code=Exit.OUT_OF_MEMORY)
        return
    found = peers.find_lost() if is_of_connection(error) else None
    if found is None:
        reason = printable(f"{type(error).__name__}: {error}", most=500)
        board.write(left=f"{board.note} ended with {reason}", code=1)
        return
    speaks = _leave_word(found, board, peers, run_dir)
    raise LostRankError(found.told, code=found.code, speaks=speaks) from None


def is_of_connection(error: Exception) -> bool:
    """Return whether an error may come of another rank's end."""
    if isinstance(error, dist.DistError | ConnectionError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def _leave_word(found: Lost, board: Board, peers: Peers, run_dir: Path) -> bool:
    """Say why this rank leaves, on the board and in the status; return whether it speaks."""
    board.write(left=found.told, code=found.code)
    if not peers.leads(found.ranks):
        return False
    is_lost = found.code in (Exit.HUNG, Exit.LOST)
    is_own = is_lost or found.code == Exit.OUT_OF_MEMORY
    with contextlib.suppress(InputError, OSError):
        status = read_status(run_dir)
        if status is not None:
            ended = {
                "state": "requeue" if is_lost else "failed",
                "reason": printable(found.told),
                "exit_code": found.code if is_own else None,
                "heartbeat": time.time(),
            }
            write_status(run_dir, status.model_copy(update=ended))
    return found.code != Exit.OUT_OF_MEMORY  # the rank that ran out has printed it
