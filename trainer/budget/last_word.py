"""A failing rank's message to the other ranks, which otherwise only see that it is gone."""

import contextlib

import torch.distributed as dist

from trainer.distributed import World
from trainer.errors import Exit

#: The key of the message in the ranks' common store.
_WORD = "txl/last_word"


def tell_peers(reason: str, world: World, *, code: Exit) -> None:
    """Leave the reason of a failure for the other ranks, which will fail too. Not collective.

    They are to end with the exit code of this one.
    """
    if world.world_size > 1 and dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # without a store there are no peers
            dist.distributed_c10d._get_default_store().set(_WORD, f"{code:d} {reason}")


def heard_from_peer(world: World) -> tuple[Exit, str] | None:
    """Return code and message that another rank left by `tell_peers`, if any. Not collective."""
    if world.world_size == 1 or not dist.is_initialized():
        return None
    with contextlib.suppress(RuntimeError):
        store = dist.distributed_c10d._get_default_store()
        if store.check([_WORD]):
            code, _, reason = str(store.get(_WORD).decode()).partition(" ")
            return Exit(int(code)), reason
    return None
