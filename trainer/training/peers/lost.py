"""Finding out which ranks are gone, or do not get on, from their notes and their processes."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.errors import Exit, first_few
from trainer.track.processes import this_place
from trainer.training.peers.board import Board, Note

#: Seconds between two looks at the notes.
PAUSE_S = 0.1
#: Seconds for a rank of this machine to say why it leaves.
WORD_S = 3.0
#: Signs of life that a rank of another machine may miss before it counts as gone.
MISSED = 2.5
#: The most ranks that one line names.
_MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Ranks that ended or do not get on, as far as they are known."""

    told: str
    """A sentence without a full stop, which names rank and host."""
    code: int
    """The exit code of those that remain."""
    ranks: frozenset[int] = field(default_factory=frozenset)
    """The ranks that cannot speak for themselves."""


class Peers:
    """The other ranks, as this one knows them from the time when all met."""

    def __init__(self, board: Board, notes: list[Note], *, beat_s: float) -> None:
        """Take all ranks' first notes, in order; each is written anew every `beat_s` seconds."""
        self._board, self._beat_s, self._here = board, beat_s, this_place()
        self._others = [note for note in notes if note.rank != board.note.rank]

    def find_lost(self) -> Lost | None:
        """Return a rank that has left or is gone; None if all seem to be there.

        Waits for a rank to say why it leaves, and longer if there are ranks on other machines, of
        which only signs of life are known.
        """
        seen = self._beats()
        far = any(note.host != self._here.host for note in self._others)
        waiting = threading.Event()
        for _ in range(int((MISSED * self._beat_s if far else WORD_S) / PAUSE_S)):
            found = self.look()
            if found is not None:
                return found
            waiting.wait(PAUSE_S)
        silent = self._silent(seen) if far else []
        return _gone((note, "gives no sign of life") for note in silent) if silent else None

    def look(self) -> Lost | None:
        """Return a rank that has said why it leaves, or that has ended without a word."""
        ended = [(note, how) for note in self._others if (how := note.how_ended(self._here))]
        for note in self._others:  # after the processes: their words came first
            now = self._board.read(note.rank)
            if now is not None and now.left:
                return Lost(told=now.left, code=now.code, ranks=frozenset({now.rank}))
            if now is not None and now.left is not None:
                ended = [(one, how) for one, how in ended if one.rank != now.rank]
        return _gone(ended) if ended else None

    def find_hung(self) -> Lost:
        """Return who does not get on, when this rank has not for too long."""
        seen, waiting = self._beats(), threading.Event()
        for _ in range(int(MISSED * self._beat_s / PAUSE_S)):
            if all(self._has_said_where(note) or self._how_silent(note) for note in self._others):
                break
            waiting.wait(PAUSE_S)
        silent = {note.rank: how for note in self._others if (how := self._how_silent(note))}
        changed = self._beats()
        for note in self._others:
            if seen[note.rank] == changed[note.rank] and not self._has_said_where(note):
                silent.setdefault(note.rank, "gives no sign of life")
        if silent:
            named = ((note, silent[note.rank]) for note in self._others if note.rank in silent)
            return _of(named, code=Exit.HUNG)
        now = [self._board.note, *(self._board.read(note.rank) or note for note in self._others)]
        behind = min(note.count for note in now)
        late = [note for note in now if note.count == behind]
        return Lost(
            told=_named((note, f"is {_place(note)}") for note in late)
            + ("; all ranks wait" if len(late) == len(now) > 1 else ""),
            code=Exit.HUNG,
        )

    def leads(self, without: frozenset[int]) -> bool:
        """Return whether this is the lowest rank but those."""
        own = self._board.note.rank
        return not any(note.rank < own and note.rank not in without for note in self._others)

    def _how_silent(self, note: Note) -> str | None:
        if note.is_stopped(self._here):
            return "is stopped, as by SIGSTOP"
        return note.how_ended(self._here)

    def _has_said_where(self, note: Note) -> bool:
        now = self._board.read(note.rank)
        return now is not None and bool(now.waits_in)

    def _beats(self) -> dict[int, int]:
        found = ((note.rank, self._board.read(note.rank)) for note in self._others)
        return {rank: -1 if note is None else note.n_beats for rank, note in found}

    def _silent(self, seen: dict[int, int]) -> list[Note]:
        now = self._beats()
        return [note for note in self._others if now[note.rank] == seen[note.rank]]


def _place(note: Note) -> str:
    return f"at {note.waits_in or 'an unknown place'}, after {note.last}"


def _gone(ended: Iterable[tuple[Note, str]]) -> Lost:
    return _of(ended, code=Exit.LOST)


def _of(found: Iterable[tuple[Note, str]], *, code: Exit) -> Lost:
    found = list(found)
    return Lost(
        told=_named(found),
        code=code,
        ranks=frozenset(note.rank for note, _ in found),
    )


def _named(found: Iterable[tuple[Note, str]]) -> str:
    return first_few([f"{note} {how}" for note, how in found], most=_MOST_NAMED)
