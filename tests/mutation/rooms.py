"""Rooms into which faults are seeded, each with the tests that must find them, and faults by hand.

A room's tests are those of its own folder, and those that hold the property a fault breaks. They
run in this order, up to the first failure.
"""

import random
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from operators import OPERATORS, Fault, by_text, faults_of


class Room(NamedTuple):
    """Files that compute one thing, and the tests that hold them to it."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = (
    Room(
        "streams",
        (
            "trainer/data/positions.py",
            "trainer/data/pieces.py",
            "trainer/data/shuffle.py",
            "trainer/data/streams.py",
            "trainer/data/rows.py",
        ),
        (
            "tests/data/test_streams.py",
            "tests/data/test_pieces.py",
            "tests/data/test_shuffle.py",
            "tests/data/test_rows.py",
            "tests/data/test_read_ahead.py",
            "tests/data/test_corpus.py",
        ),
    ),
    Room(
        "memory",
        (
            "trainer/model/memory/seen.py",
            "trainer/model/memory/inputs.py",
            "trainer/model/memory/written.py",
            "trainer/model/memory/past.py",
            "trainer/model/memory/sight.py",
            "trainer/model/memory/compressed.py",
            "trainer/model/token_tables.py",
            "trainer/memory_tree.py",
            "trainer/engine/passes/forgetting.py",
        ),
        (
            "tests/model/memory/test_inputs.py",
            "tests/model/memory/test_compressed.py",
            "tests/model/memory/test_sight.py",
            "tests/model/test_token_tables.py",
            "tests/model/test_transformer_xl.py",
            "tests/test_memory_tree.py",
            "tests/engine/passes/test_forgetting.py",
            "tests/model/test_reading.py",
            "tests/model/test_transformer_xl.py",
            "tests/model/test_attention.py",
            "tests/whole/models/test_states.py",
        ),
    ),
    Room(
        "checkpoint",
        (
            "trainer/checkpoint/folder.py",
            "trainer/checkpoint/hashing.py",
            "trainer/checkpoint/contents/index.py",
            "trainer/checkpoint/contents/memories.py",
            "trainer/checkpoint/contents/parts.py",
            "trainer/checkpoint/pointers.py",
            "trainer/checkpoint/sealing.py",
            "trainer/checkpoint/state.py",
            "trainer/checkpoint/contents/tensors.py",
        ),
        ("tests/checkpoint", "tests/training/test_saving.py"),
    ),
    Room(
        "engine",
        (
            "trainer/engine/engine.py",
            "trainer/engine/counters.py",
            "trainer/engine/full_state.py",
            "trainer/engine/gradients/loss_scale.py",
            "trainer/engine/gradients/reduction.py",
            "trainer/engine/gradients/whole.py",
            "trainer/engine/optimizers/lamb.py",
            "trainer/engine/optimizers/muon.py",
            "trainer/engine/passes/usual.py",
        ),
        ("tests/engine",),
    ),
    Room(
        "score",
        ("trainer/inference/score.py", "trainer/inference/scored_tokens.py"),
        (
            "tests/inference/test_score.py",
            "tests/inference/test_reach.py",
            "tests/inference/test_scored_tokens.py",
            "tests/inference/test_as_fairseq.py",
            "tests/model/test_reading.py",
            "tests/inference/test_evaluate.py",
        ),
    ),
    Room(
        "schedules",
        ("trainer/engine/optimizers/schedules.py",),
        ("tests/engine/optimizers/test_schedules.py", "tests/engine/optimizers/test_adam.py"),
    ),
    Room(
        "loop",
        ("trainer/training/loop.py", "trainer/training/saving.py", "trainer/training/due.py"),
        (
            "tests/training/test_loop.py",
            "tests/training/test_due.py",
            "tests/training/test_saving.py",
            "tests/data/test_guard.py",
            "tests/whole/models/test_memory_reset_segment.py",
            "tests/whole/numbers/test_invariance.py",
            "tests/whole/numbers/test_resume.py",
        ),
    ),
)

#: Faults that no operator makes, or that must be among those tried: file, what was, what is.
BY_HAND = (
    (
        "trainer/training/loop.py",
        "SeedSequence((seed, step, slot, rank))",
        "SeedSequence((seed, step, slot))",
    ),
    (
        "trainer/training/loop.py",
        "SeedSequence((seed, step, slot, rank))",
        "SeedSequence((seed, slot, rank))",
    ),
    ("trainer/training/loop.py", "engine.slots / n_tokens", "1 / n_tokens"),
    (
        "trainer/training/saving.py",
        "state.window_loss_sum.fill_(loss_sum if run.world.is_main else 0.0)",
        "pass",
    ),
    (
        "trainer/data/positions.py",
        "_offset((seed, epoch, first + i), size)",
        "_offset((seed, epoch), size)",
    ),
    (
        "trainer/data/positions.py",
        "_offset((self.seed, epoch), self.n_pairs)",
        "_offset((self.seed, 0), self.n_pairs)",
    ),
    ("trainer/data/rows.py", "is_start_BT &= places_T < spans.lengths_B[:, None]", "pass"),
    (
        "trainer/model/memory/seen.py",
        "torch.where(newest_B > 0, newest_B, read_B)",
        "read_B",
    ),
    (
        "trainer/model/memory/sight.py",
        "if segment.starts_BT is None and memory.valid_min == mem_len:",
        "if memory.valid_min == mem_len:",
    ),
    (
        "trainer/checkpoint/sealing.py",
        'kept = {*spared, pointed(folder, "latest"), pointed(folder, "best")}',
        'kept = {*spared, pointed(folder, "latest")}',
    ),
    ("trainer/checkpoint/folder.py", "if step_of(path.name) not in (None, step):", "if False:"),
    ("trainer/checkpoint/hashing.py", "digest.update(block)", "digest.update(block[:1])"),
    (
        "trainer/checkpoint/contents/tensors.py",
        "engine.full_state.write(Parts(path, index).read, optimizer_step=optimizer_step)",
        "engine.full_state.write(Parts(path, index).read, optimizer_step=0)",
    ),
    (
        "trainer/engine/gradients/whole.py",
        "nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])",
        "nn.utils.get_total_norm([p.grad for p in self._parameters[:-1] if p.grad is not None])",
    ),
    (
        "trainer/engine/gradients/whole.py",
        "elif math.isfinite(value := _numbers(self._outcome)[0]):",
        "elif (value := _numbers(self._outcome)[0]) is not None:",
    ),
    (
        "trainer/engine/engine.py",
        "if self._applied and self.ds.lr_scheduler is not None:",
        "if self.ds.lr_scheduler is not None:",
    ),
    (
        "trainer/inference/score.py",
        "return last_start if reach is None else min(reach, last_start)",
        "return last_start if reach is None else min(max(0, reach - 1), last_start)",
    ),
    ("trainer/inference/score.py", "scored_B=segments_B >= firsts_B", "scored_B=segments_B >= 0"),
    ("trainer/engine/optimizers/schedules.py", "0.5 * (lr - min_lr)", "0.5000005 * (lr - min_lr)"),
    (
        "trainer/engine/optimizers/schedules.py",
        "self._set()\n\n    def _set",
        "pass\n\n    def _set",
    ),
)


def drawn(tree: Path, room: Room, *, n: int, seed: int) -> list[Fault]:
    """Return `n` faults of a room beside those by hand, drawn by the seed, of operators in turn."""
    sources = {file: (tree / file).read_bytes() for file in room.files}
    every = [fault for file, source in sources.items() for fault in faults_of(file, source)]
    random.Random(f"{seed} {room.name}").shuffle(every)
    kinds = [[f for f in every if f.operator == kind.__name__] for kind in OPERATORS]
    in_turn = [fault for row in zip_longest(*kinds) for fault in row if fault is not None]
    own = (
        by_text(file, sources[file], was=was, now=now)
        for file, was, now in BY_HAND
        if file in sources
    )
    return [*own, *in_turn[:n]]


def of_all(tree: Path, rooms: list[Room], *, n: int, seed: int) -> Iterator[tuple[Room, Fault]]:
    """Return the faults of all rooms, which take turns: a run cut short has some of each."""
    columns = [[(room, fault) for fault in drawn(tree, room, n=n, seed=seed)] for room in rooms]
    return (pair for pair in chain.from_iterable(zip_longest(*columns)) if pair is not None)
