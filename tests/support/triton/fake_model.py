"""A step's forward and backward pass on tensors without data: what needs a value cannot run."""

from collections import Counter
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from as_on_a_gpu import as_on_a_gpu
from builders import segment_of
from kernel_report import Kernel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from triton_processes import compile_launch

from trainer.config.recipe import load_recipe
from trainer.engine.passes.usual import nats_by_row
from trainer.memory_tree import forget_streams
from trainer.model.choice import BackendName
from trainer.model.transformer_xl import TransformerXL

V = 267_735


class Hosts(TorchDispatchMode):
    """A list of the tensors made of the host's values: on a GPU, of copies that are waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Step(NamedTuple):
    """Results of two forward and backward passes."""

    launches: Counter[str]
    """Triton kernels by name, each compiled for the arguments it was given."""
    kernels: set[Kernel]
    """What became of these kernels on each card."""
    from_host: list[str]
    """See `Hosts`."""


def step_of(
    name: str, backend: BackendName, *, dtype: torch.dtype, documents: bool = False, **model: Any
) -> Step:
    """Read segments of a recipe's sizes, with an empty memory and a full one, and go back.

    In 16 bits an update of fp32 weights follows, which writes copies in `dtype`.
    """
    recipe = load_recipe(name)
    config = recipe.model.model_copy(update={"n_layer": 2, **model})
    lengths, n_streams = recipe.train, recipe.train.train_batch_size
    segment = segment_of(
        torch.arange(n_streams * lengths.tgt_len).view(n_streams, -1) * 29 % V,
        cutoffs=config.cutoffs,
        starts_BT=torch.zeros(n_streams, lengths.tgt_len).long(),
    )
    launches: list[list[Kernel]] = []

    def compiled(kernel: Any, *args: Any, **keywords: Any) -> None:
        with no_dispatch():
            launches.append(compile_launch(kernel, *args, **keywords))

    with FakeTensorMode() as fake, ExitStack() as stack:
        segment = segment.map(fake.from_tensor)
        segment = segment if documents else segment._replace(starts_BT=None)
        torch.set_default_dtype(dtype)
        module = TransformerXL(config, V)
        torch.set_default_dtype(torch.float32)
        memory, unread = (
            module.empty_memory(n, mem_len=lengths.mem_len, dtype=dtype, device=torch.device("cpu"))
            for n in (n_streams, 1)
        )
        stack.enter_context(as_on_a_gpu(backend, compiled))
        hosts = stack.enter_context(Hosts())
        for _ in range(2):
            output = module(segment, memory, same_length=documents)
            output.loss_sum.backward()
            memory = forget_streams(
                output.memory, nats_by_row(output, n_rows=n_streams).isfinite(), unread=unread
            )
        assert {p.grad.dtype for p in module.parameters() if p.grad is not None} == {dtype}
    if backend == "triton" and dtype.itemsize == 2:
        with as_on_a_gpu(backend, compiled):
            _update(dtype)
    counts = Counter(launch[0].name for launch in launches)
    return Step(counts, {kernel for launch in launches for kernel in launch}, hosts.seen)


def _update(dtype: torch.dtype) -> None:
    from trainer.engine.optimizers.adam_kernel import Places, Rule, Tensors

    weight, one = torch.ones(8), torch.ones(())
    places = Places([Tensors(*[weight] * 4, one, weight.to(dtype))])
    rule = Rule(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, decoupled=True)
    places.step(rule, lr=0.1, found_inf=one, grad_scale=one)
