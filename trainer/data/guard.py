"""Noticing that a corpus was changed, cut or damaged while a run reads it.

Opening a corpus looks at sizes and headers alone, and `txl corpus verify` reads all of it. Between
the two stand these checks, whose cost does not depend on the size of the corpus: a few blocks are
hashed at the start of an attempt, another now and then, and every id that is read is looked at.
"""

import mmap
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import xxhash

from trainer.data.header import Header
from trainer.errors import CorpusError

StoredIds = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]

#: Blocks of a split that are hashed at a start: 16 MiB.
N_SAMPLED = 4

#: What to do about a corpus that was changed.
FIX = "prepare the corpus again, or bring the one back with which the run began"


def take(path: Path, ids: StoredIds, places: Ints, header: Header) -> StoredIds:
    """Return the ids of a split at some places.

    The size of the file is looked at before: reading what was cut off would kill the process.

    Raises:
        CorpusError: the file was cut, or an id is larger than any that its header knows.
    """
    mapped: object = ids.base
    if isinstance(mapped, mmap.mmap) and (n_bytes := mapped.size()) < header.n_bytes:
        raise CorpusError(
            f"{path} was cut to {n_bytes:,} bytes while a run reads it, its header says "
            f"{header.n_bytes:,}: {FIX}"
        )
    taken = np.take(ids, places)
    if taken.size and (largest := int(taken.max())) > header.largest_id:
        raise CorpusError(
            f"{path} has id {largest:,} where the run reads, but {header.largest_id:,} is the "
            f"largest of its header, so it was changed: {FIX}"
        )
    return cast(StoredIds, taken)


def check_blocks(path: Path, header: Header, blocks: Iterable[int]) -> None:
    """Compare some blocks of a split's ids with the hashes in its header.

    Raises:
        CorpusError: a block differs, or cannot be read.
    """
    size = header.block_bytes
    try:
        with path.open("rb") as file:
            for block in blocks:
                file.seek(block * size)
                if xxhash.xxh3_128_hexdigest(file.read(size)) != header.block_hashes[block]:
                    raise CorpusError(
                        f"{path} is not what it was when it was prepared: block {block:,} of "
                        f"{len(header.block_hashes):,} has another hash (txl corpus verify looks "
                        f"at all of them): {FIX}"
                    )
    except OSError as error:
        told = (error.strerror or str(error)).lower()
        raise CorpusError(f"{path} cannot be read: {told}: {FIX}") from None


def sampled(header: Header, *, also: Sequence[int] = (), n: int = N_SAMPLED) -> list[int]:
    """Return `n` blocks drawn anew each time, and those that hold the ids at places `also`."""
    there = range(len(header.block_hashes))
    drawn = random.SystemRandom().sample(there, min(n, len(there)))
    width = np.dtype(header.dtype).itemsize
    return sorted({*drawn, *(place * width // header.block_bytes for place in also)})
