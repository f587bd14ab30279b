"""The loss scale at ZeRO stage 0 in fp16, searched for on the device.

DeepSpeed's scaler at this stage is PyTorch's `GradScaler`, with PyTorch's settings: DeepSpeed reads
the ``fp16`` block of a file only for 16-bit weights. The scaler keeps the scale, and `backward`
multiplies the loss by it, in a captured pass too. Here the block's settings are put into it, and
mean what they mean at ZeRO's stages.

The scaler's `unscale_`, `step` and `update` are not called. They look at every gradient once more,
and wait for the device if the optimizer is not fused. The norm is taken anyway, and is not finite
if any gradient is not. So the norm decides, as it does in other precisions, and on the device.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.config.deepspeed.keys import Fp16

#: DeepSpeed's default of ``fp16.min_loss_scale``; PyTorch's scaler has no bound.
_LEAST = 1


class LossScale:
    """The factor of the loss, which halves when gradients overflow.

    It doubles after every window of updates. The first window, and the first after an overflow, is
    one update longer, as ZeRO's is.
    """

    def __init__(
        self, scaler: torch.amp.GradScaler, settings: Fp16, *, device: torch.device
    ) -> None:
        """Take charge of DeepSpeed's scaler, before its first use.

        Args:
            scaler: DeepSpeed's scaler; its tensors stay where they are from here on.
            settings: the file's; what they leave out is PyTorch's default.
            device: where the loss is.
        """
        state = scaler.state_dict() | {"_growth_tracker": -1}
        if settings.initial_scale_power is not None:
            state["scale"] = 2.0**settings.initial_scale_power
        if settings.loss_scale_window is not None:
            state["growth_interval"] = settings.loss_scale_window
        scaler.load_state_dict(state)
        scaler.scale(torch.zeros((), device=device))  # makes the tensors
        kept: Any = scaler
        self.factor: Tensor = kept._scale
        """The scale of the next step, a scalar on the device that is changed in place."""
        self._n_steady: Tensor = kept._growth_tracker
        self._growth, self._backoff = state["growth_factor"], state["backoff_factor"]
        self._window: int = state["growth_interval"]
        self._least = float(settings.min_loss_scale or _LEAST)
        self.value = float(self.factor)
        """The scale on the host, after the last update of which the host has learned."""

    def search(self, found_inf: Tensor) -> None:
        """Set the scale of the next step; `found_inf` is 1 if this step's gradients overflowed."""
        tensors = self.factor, self._n_steady, found_inf
        torch._amp_update_scale_(*tensors, self._growth, self._backoff, self._window)
        self.factor.clamp_(min=self._least)
        self._n_steady.sub_(found_inf.int())  # the window is one longer

    def counters(self) -> dict[str, Any]:
        """Return the state for a checkpoint, in the counters of ZeRO's scaler; waits."""
        cur_iter = int(self._n_steady) + 1
        return {"cur_scale": float(self.factor), "cur_iter": cur_iter, "last_overflow_iter": -1}

    def set_to(self, counters: dict[str, Any]) -> None:
        """Go on from counters of this scaler or of ZeRO's; without any the scale stays."""
        if "cur_scale" in counters:
            self.factor.fill_(counters["cur_scale"]).clamp_(min=self._least)
            since = counters.get("cur_iter", 0) - counters.get("last_overflow_iter", -1) - 1
            self._n_steady.fill_((since - 1) % self._window if since > 0 else -1)
        self.value = float(self.factor)
