"""Help for DeepSpeed's ZeRO: refusals, cutting a model on `meta`, the norm of gradients."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.config.deepspeed.file import ResolvedDs
from trainer.distributed import World
from trainer.errors import InputError, first_few
from trainer.model.initialise import Fills
from trainer.model.layer import Layer
from trainer.model.precision import weight_dtype_of


def refuse_frozen(model: nn.Module, *, stage: int) -> None:
    """Refuse a model with weights that are not trained: ZeRO does not give them back to be saved.

    Raises:
        InputError: the weights, by name.
    """
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        raise InputError(
            f"ZeRO-{stage} cannot save weights that are not trained ({first_few(frozen)}): "
            "use a DeepSpeed file of stage 0"
        )


def layers_are_called_once(model: nn.Module) -> bool:
    """Return whether a model has Transformer-XL's layers, each in one place.

    Only then may all weights of a layer be gathered when it is called: DeepSpeed reduces their
    gradients at the end of every call, and does not expect another.
    """
    named = model.named_modules(remove_duplicate=False)
    layers = [module for _, module in named if isinstance(module, Layer)]
    return bool(layers) and len(layers) == len(set(layers))


def cut(fills: Fills, *, zero_init: type, resolved: ResolvedDs, world: World) -> None:
    """Cut the parameters of a model on `meta` for stage 3, and fill this rank's part of each.

    Nothing is sent: `deepspeed.zero.Init` would broadcast every parameter from rank 0, but all
    ranks fill in the same values. DeepSpeed cuts a whole parameter, so one at a time has memory,
    which is never written to and so on a CPU never taken.

    Args:
        fills: what fills the model.
        zero_init: `deepspeed.zero.Init`, passed in since only one module imports DeepSpeed.
        resolved: the DeepSpeed configuration.
        world: this process among its peers.
    """
    dtype = weight_dtype_of(resolved.precision)
    # With any module, DeepSpeed takes its linear layers of less memory; this one has no parameters.
    init = zero_init(nn.Module(), config_dict_or_path=dict(resolved.for_deepspeed), dtype=dtype)
    for parameter, fill in fills:
        whole = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=world.device))
        # The parameter stays the same object, and so what is tied to it stays tied.
        torch.utils.swap_tensors(parameter, whole)  # type: ignore[no-untyped-call]
        zero: Any = parameter
        init._convert_to_deepspeed_param(zero)
        zero.partition()
        part_N = zero.ds_tensor
        begin = part_N.numel() * world.rank
        n_own = max(0, min(part_N.numel(), zero.ds_numel - begin))
        part_N[n_own:].zero_()
        fill(part_N[:n_own], begin)


def decide_by_norm(optimizer: Any) -> None:
    """Let the norm of the gradients decide whether an update of ZeRO-1 or 2 is skipped.

    The norm is taken anyway, and is not finite if any gradient is not. DeepSpeed looks at each
    parameter's gradient first, and then takes each one's norm in fp64. These fifteen operations per
    parameter are most of what an update asks of the host.
    """
    optimizer.check_overflow = lambda partition_gradients=True: None
    optimizer.get_grad_norm_direct = partial(
        _norm, group=optimizer.dp_process_group, device=optimizer.device
    )


def _norm(
    gradients: Sequence[Tensor],
    params: Sequence[Tensor],
    norm_type: float = 2.0,
    *,
    group: Any,
    device: torch.device,
) -> Tensor:
    """Return the norm of all ranks' gradients, a scalar in fp32. Collective in `group`.

    The signature is that of DeepSpeed's `get_grad_norm_direct`, which calls only for norm 2.
    """
    total = torch.zeros((), device=device)
    if real := [grad for grad in gradients if not getattr(grad, "_zero_padding", False)]:
        norms = torch._foreach_norm(real, norm_type, dtype=torch.float32)
        total = torch.stack(norms).square().sum()
    dist.all_reduce(total, group=group)
    return total.sqrt()
