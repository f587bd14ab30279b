"""A model on a CPU that takes the operations of a GPU, whose kernels are told instead of run."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from trainer.model.choice import BackendName

#: Modules that ask for the name of a back end.
CHOOSERS = ("choice", "triton.storage")
#: Modules that hold a dropout which takes a way of its own on a CPU.
DROPOUTS = ("transformer_xl.dropout", "attention.drop", "feed_forward.dropout")

#: Operations that launch nothing on a GPU.
FREE = {
    "as_strided", "alias", "detach", "empty", "empty_like", "empty_strided", "expand", "permute",
    "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unsqueeze",
    "unbind", "view", "_unsafe_view", "new_empty", "_reshape_alias", "set_", "lift_fresh", "narrow",
    "promote_types", "_record_function_enter_new", "_record_function_exit",
}  # fmt: skip


@contextmanager
def as_on_a_gpu(backend: BackendName, launch: Callable[..., None]) -> Iterator[None]:
    """Have models take this back end and PyTorch's dropout; `launch` gets what Triton would run."""
    from triton.runtime import JITFunction

    def run(kernel: Any, *args: Any, **keywords: Any) -> None:
        launch(kernel, *args, **keywords)

    with ExitStack() as stack:
        for patch in (
            *(
                mock.patch(f"trainer.model.{room}.backend_name", return_value=backend)
                for room in CHOOSERS
            ),
            mock.patch.object(JITFunction, "run", run),
            mock.patch("trainer.engine.passes.forgetting._kernel_takes", Tensor.is_contiguous),
            mock.patch("trainer.model.triton.products._multiply_widely", _multiply_widely),
            *(mock.patch(f"trainer.model.{name}", _dropout) for name in DROPOUTS),
            mock.patch("trainer.model.feed_forward.relu_dropout", _relu_dropout),
        ):
            stack.enter_context(patch)
        yield


def _dropout(x: Tensor, probability: float, *, training: bool = True) -> Tensor:
    """Return the one kernel that `F.dropout` is on a GPU; on a CPU it would be three operations."""
    if not training or probability == 0:
        return x
    return torch.native_dropout(x, probability, train=True)[0]


def _multiply_widely(a_ON: Tensor, b_NI: Tensor, *, out: Tensor) -> None:
    """Multiply in one operation, as on a GPU. Real tensors stay: a CPU has no such operation."""
    if isinstance(out, FakeTensor):
        torch.mm(a_ON, b_NI, out_dtype=torch.float32, out=out)
    else:
        torch.mm(a_ON, b_NI)


def _relu_dropout(x: Tensor, probability: float, *, training: bool) -> Tensor:
    return _dropout(x.relu(), probability, training=training)
