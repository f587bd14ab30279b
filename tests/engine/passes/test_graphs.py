"""CUDA graphs on a GPU: what is left when a capture fails."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.engine.passes.graphs import CudaGraphs, drop_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def wait(x: Tensor) -> None:
    """Do what no graph can hold."""
    float(x.sum())


def fail(_: Tensor) -> None:
    raise RuntimeError("no kernel for that")


@pytest.mark.parametrize("fault", [wait, fail])
def test_after_a_capture_that_failed_all_goes_on_and_another_succeeds(
    fault: Callable[[Tensor], None],
) -> None:
    weight = nn.Parameter(torch.ones(1000, device="cuda"))

    def work(*, broken: bool) -> tuple[Tensor]:
        loss = F.dropout(weight, 0.5).sum()
        if broken and torch.cuda.is_current_stream_capturing():
            fault(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        return (loss.detach(),)

    state = torch.cuda.get_rng_state()
    with torch.random.fork_rng(["cuda"]), pytest.raises(RuntimeError):
        CudaGraphs(lambda: work(broken=True), [weight], slots=1)
    drop_gradients([weight])
    assert torch.equal(torch.cuda.get_rng_state(), state)
    found = [work(broken=False)[0].item() for _ in range(2)]
    drop_gradients([weight])
    with torch.random.fork_rng(["cuda"]):
        graphs = CudaGraphs(lambda: work(broken=False), [weight], slots=1)
    torch.cuda.set_rng_state(state)
    again = []
    for _ in found:
        again.append(graphs.run()[0].item())
        drop_gradients([weight])
    assert again == found
    assert found[0] != found[1]
