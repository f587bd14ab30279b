"""The same weights give the same nats and gradients as Hugging Face's TransfoXL.

`peer_worker` says what of the peer's own ways is bridged. Here: its memory starts as zeros that
are attended, so ours starts as zeros marked valid. `pytest -s` prints the table of differences.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU
from peer import ask, needs_peer
from safetensors.torch import load_file
from torch import Tensor

from trainer.data.rows import clusters_of
from trainer.exchange.importing import import_checkpoint
from trainer.exchange.names import table_of, to_theirs
from trainer.exchange.settings import ForeignConfig
from trainer.inference.loading import open_trained
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Segment

pytestmark = needs_peer()

V, TGT_LEN, N_STREAMS, N_SEGMENTS = 60, 7, 2, 4

#: Fields of `TransfoXLConfig` that differ from `BASE`.
CONFIGS: dict[str, dict[str, Any]] = {
    "no clusters": {"cutoffs": []},
    "no clusters, d_embed 16, pre-norm": {"cutoffs": [], "d_embed": 16, "pre_lnorm": True},
    "div_val 1": {},
    "div_val 1, same_length": {"same_length": True},
    "div_val 1, d_embed 16, mem 5 < tgt": {"d_embed": 16, "mem_len": 5},
    "div_val 1, shared biases, clamp 5": {"untie_r": False, "clamp_len": 5},
    "div_val 2, pre-norm": {"div_val": 2, "pre_lnorm": True},
    "div_val 2, same_length, clamp 9": {"div_val": 2, "same_length": True, "clamp_len": 9},
    "div_val 4, shared biases": {"div_val": 4, "d_embed": 32, "untie_r": False},
    "div_val 4, pre-norm, same_length": {
        "div_val": 4,
        "d_embed": 16,
        "pre_lnorm": True,
        "same_length": True,
        "clamp_len": 4,
        "untie_r": False,
    },
}
BASE = {
    "vocab_size": V,
    "cutoffs": [20, 40],
    "d_model": 24,
    "d_embed": 24,
    "n_head": 3,
    "d_head": 6,
    "d_inner": 40,
    "n_layer": 3,
    "div_val": 1,
    "mem_len": 10,
    "clamp_len": -1,
    "dropout": 0.0,
    "dropatt": 0.0,
    "same_length": False,
    "untie_r": True,
    "pre_lnorm": False,
}

#: Largest relative difference of a loss, and of a gradient, by dtype.
LIMITS = {"float32": (2e-6, 1e-4), "float64": (1e-9, 1e-7)}


@cache
def ids() -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(V, (N_STREAMS, N_SEGMENTS * TGT_LEN + 1), generator=draws)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Return the peer's weights and answers, by configuration and dtype; all from one process."""
    folder = tmp_path_factory.mktemp("peer")
    folders = {
        (name, dtype): folder / f"{dtype}-{i}" for i, name in enumerate(CONFIGS) for dtype in LIMITS
    }
    tasks = [
        {
            "kind": "parity",
            "folder": str(path),
            "config": {**BASE, **CONFIGS[name]},
            "dtype": dtype,
            "ids": ids().tolist(),
            "tgt_len": TGT_LEN,
        }
        for (name, dtype), path in folders.items()
    ]
    ask(folder, tasks)
    for path in folders.values():
        symbols = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, V))]
        (path / "vocab.txt").write_text("".join(f"{symbol}\n" for symbol in symbols))
    return folders


def read(model: TransformerXL, settings: ForeignConfig, dtype: torch.dtype) -> Tensor:
    """Return nats of every target, read segment by segment with memory, `[B, N]`."""
    memory = model.empty_memory(N_STREAMS, mem_len=settings.mem_len, dtype=dtype, device=CPU)
    attended = torch.full((N_STREAMS,), settings.mem_len)
    memory = memory._replace(valid_B=attended, valid_min=settings.mem_len)
    cutoffs, parts = model.config.cutoffs, []
    tokens_BN, targets_BN = ids()[:, :-1], ids()[:, 1:]
    for tokens_BT, targets_BT in zip(
        tokens_BN.split(TGT_LEN, dim=1), targets_BN.split(TGT_LEN, dim=1), strict=True
    ):
        segment = Segment(
            tokens_BT,
            targets_BT,
            torch.full((N_STREAMS,), TGT_LEN),
            None,
            clusters_of(tokens_BT.numpy(), cutoffs),
            clusters_of(targets_BT.numpy(), cutoffs),
            targets_BT.numel(),
            True,
        )
        output = model(
            segment, memory, clamp_len=settings.clamp_len, same_length=settings.same_length
        )
        output.loss_sum.backward()
        memory = output.memory
        assert output.nll_BT is not None
        parts.append(output.nll_BT)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("name", CONFIGS)
def test_nats_and_every_gradient_equal_the_peers(
    answers: dict[tuple[str, str], Path], tmp_path: Path, name: str, dtype: str
) -> None:
    path = answers[name, dtype]
    imported = import_checkpoint(path, out=tmp_path / "run")
    settings = imported.foreign.config
    trained = open_trained(tmp_path / "run", which="best", precision=None, device=CPU)
    module = trained.module
    assert isinstance(module, TransformerXL)
    model = module.to(getattr(torch, dtype))
    ours_BN = read(model, settings, getattr(torch, dtype))

    answer = load_file(path / "answer.safetensors")
    loss = float(((ours_BN - answer.pop("nats")).abs() / ours_BN).max())
    table = table_of(model.config, V)
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = {key.removeprefix("grad."): grad for key, grad in answer.items()}
    by_their_names = to_theirs(ours, table)
    assert {table.copies.get(name, name) for name in theirs} == set(table.shapes)
    gradient = max(
        float((by_their_names[name] - grad).abs().max() / grad.abs().max())
        for name, grad in theirs.items()
    )
    print(f"\n{name:36} {dtype} loss {loss:.1e} gradients {gradient:.1e}")
    assert loss < LIMITS[dtype][0]
    assert gradient < LIMITS[dtype][1]
