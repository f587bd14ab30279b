"""A small model read and trained by chosen kernels, in a process where Triton interprets."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from as_on_a_gpu import CHOOSERS
from builders import (
    CPU,
    empty,
    lone_world,
    segment_of,
    tiny_experiment,
    tiny_model,
    tiny_model_config,
)
from torch import Tensor
from triton_processes import interpret

from trainer.distributed import World
from trainer.launchers import complete_environ
from trainer.memory_tree import detached
from trainer.model.build import build_model
from trainer.model.choice import BackendName
from trainer.model.memory.inputs import LayerInputs
from trainer.model.transformer_xl import TransformerXL
from trainer.model.triton.alignment import pads_of
from trainer.model.triton.storage import store_aligned
from trainer.protocol import Segment

V, TGT_LEN = 20, 5
#: Widths that are no multiples of 8.
ODD = {"d_model": 10, "d_head": 5, "d_inner": 21}


def prepare() -> None:
    """Let Triton interpret in this process; tails are filled up to fewer rows, which is faster."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    interpret()
    # It multiplies in numpy, which says so when Philox overflows, as it means to.
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
    from trainer.model.triton import backend

    backend._BUCKET = 8


class Reading(NamedTuple):
    """Results of a model that read a text."""

    loss: Tensor
    nats: list[Tensor]
    memory: LayerInputs
    grads: dict[str, Tensor]
    launches: Counter[str]
    """Triton kernels by name."""


def text(cutoffs: tuple[int, ...], *, documents: bool) -> list[Segment]:
    """Return three segments of two streams; the second row is short and then absent."""
    torch.manual_seed(1)
    lengths = [[5, 5], [5, 3], [5, 0]] if documents else [[5, 5]] * 3
    starts = [
        [[-1] * 5, [0] * 5],
        [[-1, -1, 2, 2, 2], [-1, 1, 1, 1, 1]],
        [[0, 0, 0, 3, 3], [-1] * 5],
    ]
    return [
        segment_of(
            torch.randint(V, (2, TGT_LEN)),
            lengths=lengths[i],
            cutoffs=cutoffs,
            starts_BT=torch.tensor(starts[i]) if documents else None,
        )
        for i in range(3)
    ]


@contextmanager
def taking(backend: BackendName) -> Iterator[None]:
    """Let models take this back end, on whatever device, until the block ends."""
    with ExitStack() as stack:
        for room in CHOOSERS:
            patch = mock.patch(f"trainer.model.{room}.backend_name", return_value=backend)
            stack.enter_context(patch)
        yield


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Yield a count of the launches of Triton's kernels."""
    from triton.runtime.interpreter import GridExecutor

    launches: Counter[str] = Counter()
    launch = GridExecutor.__call__

    def count(self: Any, *args: Any, **keywords: Any) -> Any:
        launches[self.fn.__name__] += 1
        return launch(self, *args, **keywords)

    with mock.patch.object(GridExecutor, "__call__", count):
        yield launches


def read(
    backend: BackendName,
    *,
    model: dict[str, Any],
    mem_len: int = 7,
    documents: bool = False,
    dtype: torch.dtype = torch.float64,
    autocast: bool = False,
    seed: int = 0,
    stored_aligned: bool = False,
    **options: Any,
) -> Reading:
    """Read `text` segment by segment with one backward pass for all of it."""
    module = tiny_model(V, **model).to(dtype)
    if stored_aligned:
        store_aligned(module)
    memory = empty(module, 2, mem_len)
    if autocast:
        memory = memory._replace(layers=tuple(x.bfloat16() for x in memory.layers))
    segments = text(module.config.cutoffs, documents=documents)
    torch.manual_seed(seed)
    loss, nats = torch.zeros((), dtype=torch.float64), []
    with taking(backend), counted() as launches:
        for segment in segments:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                output = module(segment, memory, **options)
            memory, loss = output.memory, loss + output.loss_sum
            nats.append(output.nll_BT)
        loss.backward()
    return Reading(loss.detach(), nats, detached(memory), grads_of(module), launches)


@torch.no_grad()
def scored(
    backend: BackendName, *, model: dict[str, Any], stored_aligned: bool = False, **options: Any
) -> list[Tensor]:
    """Return nats of `text` with weights that stay and a memory for it; then of single tokens.

    And in the end the probabilities of every word after one of them.
    """
    module = tiny_model(V, **model).eval()
    if stored_aligned:
        store_aligned(module)
    with taking(backend):
        memory = module.reading_memory(2, mem_len=7, dtype=torch.float64, device=CPU)
        segments = text(module.config.cutoffs, documents=True)
        single = segment_of(torch.tensor([[3], [4]]), cutoffs=module.config.cutoffs)
        nats = []
        for segment in (*segments, single, single, segments[0]):
            output = module(segment, memory, **options)
            memory = output.memory
            nats.append(output.nll_BT)
        predicted, memory = module.predict(single, memory, **options)
        next_one, _ = module.predict_next(single, memory, **options)
    return [*nats, predicted, next_one.of_all()]


def grads_of(module: TransformerXL) -> dict[str, Tensor]:
    """Return gradients without pads, whose gradients are zero."""
    grads = {}
    for name, p in module.named_parameters():
        if p.grad is None:
            continue
        pads = pads_of(p)
        grads[name] = p.grad if pads is None else pads.removed(p.grad)
        if pads is not None:
            assert torch.equal(pads.added(grads[name]), p.grad), name
    return grads


@cache
def world() -> World:
    """Return the process group of this process alone; DeepSpeed keeps hold of its first."""
    from trainer.engine import deepspeed

    os.environ.update(complete_environ(os.environ))
    return deepspeed.connect(lone_world(), timeout_s=300)


def engine_of(
    backend: BackendName, ds_file: str, *, model: dict[str, Any], frozen: tuple[str, ...] = ()
) -> Any:
    """Return DeepSpeed's engine on one rank, some of its weights not trained, for a back end."""
    warnings.simplefilter("ignore")  # DeepSpeed's own
    from trainer.config.deepspeed.file import load_ds_config, resolve
    from trainer.engine import deepspeed

    experiment = tiny_experiment(
        model=tiny_model_config(**model).model_dump(),
        optim={"lr": 1.0, "eps": 1.0},
        train={"train_batch_size": 2},
    )
    raw = load_ds_config(ds_file)
    if raw["zero_optimization"]["stage"] == 3:
        raw["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    resolved = resolve(raw, experiment, world_size=1, where="test")
    module = build_model(experiment.model, vocabulary_size=V, seed=0)
    for name in frozen:
        module.get_parameter(name).requires_grad_(False)
    with taking(backend):
        return deepspeed.build(
            module,
            optim=experiment.optim,
            max_steps=9,
            resolved=resolved,
            world=world(),
        )


def trained(
    backend: BackendName,
    ds_file: str,
    *,
    model: dict[str, Any],
    n_steps: int = 2,
    copies: bool = True,
    frozen: tuple[str, ...] = (),
) -> tuple[list[float], dict[str, Tensor], Counter[str]]:
    """Return losses, and weights in the end, of steps through DeepSpeed's engine on one rank.

    Adam's eps is so large that a step is one along the gradient. Without `copies` autocast casts.
    """
    from trainer.engine import deepspeed

    # At stage 3 DeepSpeed puts its own in its place, for the rest of the process.
    with mock.patch.object(F, "linear", F.linear):
        patch = mock.patch.object(deepspeed, "copies_of", return_value=None)
        with nullcontext() if copies else patch:
            built = engine_of(backend, ds_file, model=model, frozen=frozen)
        with taking(backend), counted() as launches:
            losses = steps_of(built, model, n_steps)
    weights = {name: found["weight"] for name, found in whole_state(built).items()}
    built.destroy()
    return losses, weights, launches


def whole_state(built: Any) -> dict[str, dict[str, Tensor]]:
    """Return weights and moments of an engine on one rank, which owns all."""
    shapes = built.full_state.shapes()
    state: dict[str, dict[str, Tensor]] = {}
    for name, begin, tensors in built.full_state.parts():
        assert begin == 0
        state[name] = {key: x.reshape(shapes[name]).clone() for key, x in tensors.items()}
    return state


def _fill(
    state: dict[str, dict[str, Tensor]], name: str, key: str, begin: int, into_N: Tensor
) -> None:
    into_N.copy_(state[name][key].flatten()[begin : begin + len(into_N)])


def steps_of(built: Any, model: dict[str, Any], n_steps: int) -> list[float]:
    built.train(True)
    memory, losses = built.empty_memory(2, mem_len=7), []
    for segment in text(model.get("cutoffs", ()), documents=True)[:n_steps]:
        output = built(segment, memory, clamp_len=None, same_length=False)
        built.backward(output.loss_sum / segment.n_tokens)
        built.step()
        built.learned()
        memory = output.memory
        losses.append(float(output.loss_sum.detach()))
    return losses


def carried_over(
    ds_file: str, *, model: dict[str, Any]
) -> tuple[list[dict[str, dict[str, Tensor]]], list[float]]:
    """Return weights and moments after steps on the kernels, then as other engines have taken them.

    And the loss that each then has.
    """
    states: list[dict[str, dict[str, Tensor]]] = []
    losses = []
    for backend in ("triton", "plain", "triton"):
        built = engine_of(backend, ds_file, model=model)
        assert any(map(pads_of, built.ds.module.parameters())) == (backend == "triton")
        if states:
            built.full_state.write(partial(_fill, states[-1]), optimizer_step=2)
        else:
            with taking(backend):
                steps_of(built, model, 2)
        states.append(whole_state(built))
        shapes = {name: tuple(found["weight"].shape) for name, found in states[-1].items()}
        assert shapes == built.full_state.shapes()
        with taking(backend):
            losses += steps_of(built, model, 1)
        built.destroy()
    return states, losses
