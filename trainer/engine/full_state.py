"""Weights and moments as full fp32 tensors by parameter name, whatever the ZeRO stage.

This form is the same for every stage, precision and number of ranks. All methods are called by all
ranks, since each rank may own a part of a parameter.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.model.triton.alignment import pads_of

#: The optimizer's moments, as every implementation of Adam names them.
MOMENTS = ("exp_avg", "exp_avg_sq")


class Fragment(NamedTuple):
    """A part of a parameter, with its pads, and its place in one of the optimizer's tensors."""

    name: str
    start: int
    numel: int


class FullState:
    """The weights and moments of one DeepSpeed engine, to read and to write."""

    def __init__(
        self,
        ds: Any,
        *,
        api: Any,
        names: dict[int, str],
        stage: int,
        rank: int,
        world_size: int,
        when_written: Callable[[], None] | None = None,
    ) -> None:
        """Give access to an engine.

        Args:
            ds: DeepSpeed's engine.
            api: `deepspeed.utils`, passed in since only one module imports DeepSpeed.
            names: parameter names by id.
            stage: the ZeRO stage.
            rank: the rank of this process.
            world_size: the number of ranks.
            when_written: is called after `write`.
        """
        self._when_written = when_written
        self._ds, self._api, self._stage = ds, api, stage
        self._rank, self._world_size = rank, world_size
        self._named: list[tuple[str, Any]] = [(names[id(p)], p) for p in ds.module.parameters()]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every parameter's shape by name, in a fixed order."""
        return {name: self._shape(p) for name, p in self._named}

    @staticmethod
    def _shape(p: Any) -> tuple[int, ...]:
        pads = pads_of(p)
        return tuple(getattr(p, "ds_shape", p.shape)) if pads is None else pads.shape

    def read(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield each parameter's name with its ``weight``, and its moments after a first update.

        A parameter is gathered only when the iterator reaches it.
        """
        keys = MOMENTS if self.optimizer_step() > 0 else ()
        for name, p in self._named:
            yield name, {"weight": self._get(p, None)} | {key: self._get(p, key) for key in keys}

    def write(self, item: Callable[[str], dict[str, Tensor]], *, optimizer_step: int) -> None:
        """Set weights and moments to those that `read` yielded.

        Args:
            item: returns a parameter's tensors by name; those it lacks stay as they are.
            optimizer_step: the number of updates that the moments have seen, for Adam's bias
                correction.
        """
        if optimizer_step > 0 or self.optimizer_step() > 0:
            self.create_moments(optimizer_step)
        for name, p in self._named:
            for key, value in item(name).items():
                pads = pads_of(p)
                stored = value if pads is None else pads.added(value)
                self._set(p, None if key == "weight" else key, stored.to(p.device))
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
                numel = min(n_local, p.ds_numel - n_local * self._rank)
                if numel > 0:
                    found[flats[group]].append(Fragment(name, start, numel))
            elif p._hp_mapping is not None:  # this rank owns a part
                address = p._hp_mapping.hp_fragment_address
                flat = flats[p._hp_mapping.param_group_index]
                found[flat].append(Fragment(name, address.start, address.numel))
        return found

    def _flat(self) -> list[Tensor]:
        """Return this rank's tensors that are the keys of the optimizer's state."""
        optimizer = self._ds.optimizer
        if self._stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        if self._stage > 0:
            return list(optimizer.single_partition_of_fp32_groups)
        return [p for _, p in self._named]

    def _get(self, p: Any, key: str | None) -> Tensor:
        """Return a parameter's weight or a moment of it, without pads."""
        found: Tensor
        if self._stage == 0:
            found = p.detach() if key is None else self._ds.basic_optimizer.state[p][key]
        elif key is None:
            found = self._api.safe_get_full_fp32_param(p)
        else:
            found = self._api.safe_get_full_optimizer_state(p, key)
        pads = pads_of(p)
        return found if pads is None else pads.removed(found)

    def _set(self, p: Any, key: str | None, value: Tensor) -> None:
        if self._stage == 3:
            self._set_partition(p, key, value)
        elif self._stage == 0:
            (p.data if key is None else self._ds.basic_optimizer.state[p][key]).copy_(value)
        elif key is None:
            p.data.copy_(value)
            self._api.safe_set_full_fp32_param(p, value)
        else:
            self._api.safe_set_full_optimizer_state(p, value, key)

    def _set_partition(self, p: Any, key: str | None, value: Tensor) -> None:
        """Set a parameter at stage 3, whose setters for whole tensors forget the last pad."""
        n_local = p.ds_tensor.ds_numel
        padded = value.new_zeros(n_local * self._world_size)
        padded[: value.numel()] = value.flatten()
        local = padded.narrow(0, n_local * self._rank, n_local)
        if key is not None:
            self._api.safe_set_local_optimizer_state(p, local, key)
            return
        self._api.safe_set_local_fp32_param(p, local)
        p.ds_tensor.data.copy_(local)
        if p.data.numel() == value.numel():  # every rank keeps small parameters whole
            p.data.copy_(value)
