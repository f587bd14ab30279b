"""A message that a failing rank leaves for the others, which only see that it is gone."""

import contextlib

import torch.distributed as dist

from trainer.distributed import World

#: The store's key of what a rank that fails leaves for the others.
_WORD = "txl/last_word"


def tell_peers(reason: str, world: World) -> None:
    """Leave word for the other ranks, which fail when this one is gone. Not collective."""
    if world.world_size > 1 and dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # without a store there is nobody to tell
            dist.distributed_c10d._get_default_store().set(_WORD, reason)


def heard_from_peer(world: World) -> str | None:
    """Return the message that another rank left by `tell_peers`, if any did. Not collective."""
    if world.world_size == 1 or not dist.is_initialized():
        return None
    with contextlib.suppress(RuntimeError):
        store = dist.distributed_c10d._get_default_store()
        if store.check([_WORD]):
            return str(store.get(_WORD).decode())
    return None
