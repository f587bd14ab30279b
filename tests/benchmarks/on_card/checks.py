"""Checks of a card: the model against the plain one, and what waits for the device in a step."""

import math
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from builders import segment_of
from measured.dims import CONFIGS
from measured.ours import experiment_of
from measured.processes import ROOT
from on_card.rows import Ask, Row, row
from on_card.steps import our_step
from torch import Tensor
from triton_model import taking

from trainer.model.choice import BackendName
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Segment

#: Largest relative errors of the nats and of all gradients, beside the plain ones in fp32.
LIMITS = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.01, 0.06), torch.float16: (2e-3, 0.02)}
#: The model that is trained through several segments.
THROUGH_MEMORY = "through memory"


def model(ask: Ask) -> Iterator[Row]:
    """Yield whole models with documents, clusters and odd widths, against the plain ones."""
    device = ask.device
    changes: dict[str, dict[str, Any]] = {
        "post-norm": {},
        "pre-norm": {"norm": "pre", "position_biases": "per_layer"},
        "div_val 2": {"div_val": 2, "d_embed": 100},
        THROUGH_MEMORY: {},
    }
    sizes = {"d_model": 10, "d_head": 5, "d_inner": 21} if device == "cpu" else {}
    for name, change in changes.items():
        for dtype, limits in LIMITS.items():
            how = {"changes": sizes | change, "attached": name == THROUGH_MEMORY}
            exact = _grads(device, torch.float32, "plain", **how)
            ours = _grads(device, dtype, "triton", **how)
            plain = _grads(device, dtype, "plain", **how)
            for what, limit in zip(("nats", "gradients"), limits, strict=True):
                error, theirs = (_error(found[what], exact[what]) for found in (ours, plain))
                told = f"{error:.1e} (plain {theirs:.1e})"
                ok = error < max(limit, 2 * theirs)
                yield row("model", f"{name}, {dtype}: {what} differ by", told, ok=ok)


def _grads(
    device: str,
    dtype: torch.dtype,
    backend: BackendName,
    *,
    changes: dict[str, Any],
    attached: bool,
) -> dict[str, list[Tensor]]:
    """Return nats and gradients of three segments, all in fp32."""
    torch.manual_seed(0)
    config = experiment_of(CONFIGS["wt103-base"], 0.0).model.model_copy(
        update={"n_layer": 2, "cutoffs": (100, 300), **changes}
    )
    module = TransformerXL(config, 1000)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    segments = _segments(device, config.cutoffs)
    module.to(device, dtype)
    memory = module.empty_memory(3, mem_len=9, dtype=dtype, device=torch.device(device))
    loss, nats = torch.zeros((), device=device), []
    loss_scale = 256 if dtype == torch.float16 else 1
    with taking(backend):
        for segment in segments:
            output = module(segment, memory, attached=attached)
            memory, loss = output.memory, loss + output.loss_sum
            nats.append(output.nll_BT)
        (loss * loss_scale).backward()
    grads = [p.grad.float() / loss_scale for p in module.parameters() if p.grad is not None]
    return {"nats": nats, "gradients": grads}


def _segments(device: str, cutoffs: tuple[int, ...]) -> list[Segment]:
    starts_BT = torch.tensor([[-1, -1, 2, 2, 2, 2, 2], [0] * 7, [-1] * 7])
    made = [
        segment_of(torch.randint(1000, (3, 7)), cutoffs=cutoffs, starts_BT=starts)
        for starts in (None, starts_BT, None)
    ]
    return [segment.map(lambda x: x.to(device)) for segment in made]


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    wrong = sum(float((a - b).square().sum()) for a, b in zip(found, exact, strict=True))
    return math.sqrt(wrong / sum(float(b.square().sum()) for b in exact))


def waits(ask: Ask) -> Iterator[Row]:
    """Yield what waits for the device in a step: none of it is to be ours."""
    if ask.device == "cpu":
        return
    with our_step(ask.device) as step, warnings.catch_warnings():
        found: Counter[tuple[str, bool]] = Counter()
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_, **__: found.update([_waiter()])
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    for (place, is_ours), n in found.most_common():
        yield row("waits", place, n, ok=not is_ours)
    ours = sum(n for (_, is_ours), n in found.items() if is_ours)
    yield row("waits", "of ours in a step", ours, ok=ours == 0)


def _waiter() -> tuple[str, bool]:
    """Return the innermost line of ours or DeepSpeed's that is running, and whether it is ours."""
    for frame in reversed(traceback.extract_stack()):
        for folder, is_ours in ((str(ROOT / "trainer"), True), ("/deepspeed/", False)):
            if folder in frame.filename:
                place = f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
                return place, is_ours
    return "elsewhere", False
