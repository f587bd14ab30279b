"""Weights and moments in fp32 by parameter name, in the parts that ranks own at any ZeRO stage.

A parameter is flat here. Its parts on all ranks together are the whole, so what is read at one
stage, precision and number of ranks can be written at any other. Nothing is sent between ranks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.model.triton.alignment import Pads, pads_of

#: The optimizer's moments, as every implementation of Adam names them.
MOMENTS = ("exp_avg", "exp_avg_sq")


class Fragment(NamedTuple):
    """A part of a parameter, with its pads, and its place in one of the optimizer's tensors."""

    name: str
    start: int
    """The place of its first element in the optimizer's tensor."""
    numel: int
    begin: int = 0
    """The place of its first element in the flat parameter, with its pads."""


class Part(NamedTuple):
    """A part of a parameter that this rank owns."""

    name: str
    begin: int
    """The place of its first element in the flat parameter."""
    tensors: dict[str, Tensor]
    """``weight``, and the moments after a first update, each of N elements in fp32, in the order of
    the flat parameter; mostly not copied."""


Read = Callable[[str, str, int, Tensor], None]
"""A function that fills a tensor, `[N]`: of a parameter's ``weight`` or moment, from an element on.

Its arguments are the parameter's name, the key, the first element and the tensor.
"""


class FullState:
    """The weights and moments of one DeepSpeed engine, to read and to write."""

    def __init__(
        self,
        ds: Any,
        *,
        names: dict[int, str],
        stage: int,
        rank: int,
        world_size: int,
        when_written: Callable[[], None] | None = None,
    ) -> None:
        """Give access to an engine.

        Args:
            ds: DeepSpeed's engine.
            names: parameter names by id.
            stage: the ZeRO stage.
            rank: the rank of this process.
            world_size: the number of ranks.
            when_written: is called after `write`.
        """
        self._when_written = when_written
        self._ds, self._stage = ds, stage
        self._rank, self._world_size = rank, world_size
        self._named: list[tuple[str, Any]] = [(names[id(p)], p) for p in ds.module.parameters()]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every parameter's shape by name, in a fixed order."""
        return {name: self._shape(p) for name, p in self._named}

    @staticmethod
    def _shape(p: Any) -> tuple[int, ...]:
        pads = pads_of(p)
        return tuple(getattr(p, "ds_shape", p.shape)) if pads is None else pads.shape

    @property
    def saves_uncopied(self) -> bool:
        """Return whether a checkpoint writes the parts as they lie: a copy might not fit.

        That is so at stage 3 in the host's memory.
        """
        return self._stage == 3 and self._flat()[0].device.type == "cpu"

    def parts(self) -> Iterator[Part]:
        """Yield what this rank owns; at stage 0, where all ranks have all, an equal share of it."""
        state, keys = self._ds.basic_optimizer.state, MOMENTS if self.optimizer_step() > 0 else ()
        total, passed = sum(p.numel() for p in self._flat()), 0
        low, high = (total * i // self._world_size for i in (self._rank, self._rank + 1))
        named = dict(self._named)
        for flat, fragments in self.fragments().items():
            for name, start, numel, begin in fragments:
                first, last = 0, numel
                if self._stage == 0:
                    first, last = (min(max(at - passed, 0), numel) for at in (low, high))
                passed += numel
                if first < last:
                    tensors = {"weight": flat.detach()} | {key: state[flat][key] for key in keys}
                    place = slice(start + first, start + last)
                    own = {key: x.flatten()[place] for key, x in tensors.items()}
                    yield _without_pads(Part(name, begin + first, own), pads_of(named[name]))

    def write(self, read: Read, *, optimizer_step: int) -> None:
        """Set weights and moments to those that `parts` yielded, on all ranks together.

        Args:
            read: gives the values, each rank those that it owns or has a copy of.
            optimizer_step: the number of updates that the moments have seen, for Adam's bias
                correction; without any, moments are zeros and are not read.
        """
        if optimizer_step > 0 or self.optimizer_step() > 0:
            self.create_moments(optimizer_step)
        state, keys = self._ds.basic_optimizer.state, MOMENTS if optimizer_step > 0 else ()
        named = dict(self._named)
        for flat, fragments in self.fragments().items():
            for name, start, numel, begin in fragments:
                place = slice(start, start + numel)
                for key, tensor in {
                    "weight": flat,
                    **{key: state[flat][key] for key in keys},
                }.items():
                    with _flattened(tensor) as all_N:
                        _read(read, name, key, begin, all_N[place], pads_of(named[name]))
                if self._stage == 3:
                    named[name].ds_tensor.data[:numel].copy_(flat.detach()[place])
        for name, p in self._named:
            # At stage 0 these are the optimizer's own. At stage 3 every rank keeps small parameters
            # whole between steps.
            if self._stage in (1, 2) or (self._stage == 3 and p.numel() == p.ds_numel):
                with _flattened(p) as all_N:
                    _read(read, name, "weight", 0, all_N, pads_of(p))
        if self._when_written is not None:
            self._when_written()

    def create_moments(self, optimizer_step: int) -> None:
        """Make zero moments before the optimizer's first step; count `optimizer_step` as done."""
        base = self._ds.basic_optimizer
        for flat in self._flat():
            state: dict[str, Any] = {key: torch.zeros_like(flat) for key in MOMENTS}
            state["step"] = optimizer_step  # a plain number in DeepSpeed's Adam for the CPU
            if "fused" in base.defaults:
                device = flat.device if base.defaults["fused"] else torch.device("cpu")
                state["step"] = torch.tensor(float(optimizer_step), device=device)
            base.state[flat] = state
        if self._stage in (1, 2):  # ZeRO links parameters to moments only once, at a first step
            self._ds.optimizer._hp_optimizer_states_linked = False
            self._ds.optimizer._lazy_init_hp_params_optimizer_state()

    def optimizer_step(self) -> int:
        """Return the number of updates that the moments have seen."""
        state = self._ds.basic_optimizer.state.get(self._flat()[0], {})
        return int(state.get("step", 0))

    def fragments(self) -> dict[Tensor, list[Fragment]]:
        """Return the fragments in each of this rank's optimizer tensors, without padding."""
        flats = self._flat()
        found: dict[Tensor, list[Fragment]] = {flat: [] for flat in flats}
        for i, (name, p) in enumerate(self._named):
            if self._stage == 0:
                found[flats[i]] = [Fragment(name, 0, p.numel())]
            elif self._stage == 3:
                group, start, n_local = self._ds.optimizer.grad_position[p.ds_id]
                begin = n_local * self._rank
                numel = min(n_local, p.ds_numel - begin)
                if numel > 0:
                    found[flats[group]].append(Fragment(name, start, numel, begin))
            elif p._hp_mapping is not None:  # this rank owns a part
                address, own = p._hp_mapping.hp_fragment_address, p._hp_mapping.lp_fragment_address
                flat = flats[p._hp_mapping.param_group_index]
                found[flat].append(Fragment(name, address.start, address.numel, own.start))
        return found

    def _flat(self) -> list[Tensor]:
        """Return this rank's tensors that are the keys of the optimizer's state."""
        optimizer = self._ds.optimizer
        if self._stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        if self._stage > 0:
            return list(optimizer.single_partition_of_fp32_groups)
        return [p for _, p in self._named]


def _without_pads(part: Part, pads: Pads | None) -> Part:
    if pads is None:
        return part
    tensors = {key: pads.taken(x_N, part.begin) for key, x_N in part.tensors.items()}
    return Part(part.name, pads.n_before(part.begin), tensors)


def _read(read: Read, name: str, key: str, begin: int, into_N: Tensor, pads: Pads | None) -> None:
    """Fill a part of a parameter, whose pads stay as they are."""
    if pads is None:
        read(name, key, begin, into_N)
        return
    first, last = pads.n_before(begin), pads.n_before(begin + len(into_N))
    values_N = into_N.new_empty(last - first)
    read(name, key, first, values_N)
    pads.put(into_N, begin, values_N)


@contextmanager
def _flattened(tensor: Tensor) -> Iterator[Tensor]:
    """Lend the flat elements of a tensor, `[N]` in the order of indexing, to be changed."""
    flat_N = tensor.detach().flatten()
    yield flat_N
    if flat_N.data_ptr() != tensor.data_ptr():  # the tensor does not lie in this order
        tensor.detach().copy_(flat_N.view_as(tensor))
