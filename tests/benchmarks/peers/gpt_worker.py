"""A plain GPT of today, in our own words: what one would train instead of a model with memory.

As in nanoGPT (Karpathy, 2022): pre-norm, learned positions, GELU, no biases, one softmax over all
words tied to the embedding, AdamW fused. Attention is PyTorch's own. `torch.compile`, which nanoGPT
uses on GPUs, is not used. `softmax="adaptive"` puts this trainer's plain adaptive embedding and
softmax, made of PyTorch's operations, in the place of the tied table.

A step trains as many tokens as ours, in rows of tgt_len + mem_len tokens, so that the longest
context is equal. But a token of a GPT has at the mean half a row before it, where Transformer-XL's
always has all of its memory: (tgt_len + mem_len) / 2 keys against mem_len + tgt_len / 2.

To score, a GPT has to read mem_len tokens anew before every tgt_len tokens that it scores.

B rows · T tokens of a row · D d_model · H heads · N = B·T or the scored ones · V words.
"""

import json
import math
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measured.dims import CONFIGS, Dims, text
from measured.worker import serve
from torch import Tensor, nn

#: As nanoGPT's `train.py` has them.
LR, BETAS, WEIGHT_DECAY, CLIP, STD = 6e-4, (0.9, 0.95), 0.1, 1.0, 0.02


class Block(nn.Module):
    """A layer: attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, dims: Dims, dropout: float) -> None:
        super().__init__()
        self.n_head, self.dropout, width = dims.n_head, dropout, dims.n_head * dims.d_head
        self.norm_1 = nn.LayerNorm(dims.d_model, bias=False)
        self.qkv = nn.Linear(dims.d_model, 3 * width, bias=False)
        self.attended = nn.Linear(width, dims.d_model, bias=False)
        self.norm_2 = nn.LayerNorm(dims.d_model, bias=False)
        self.inner = nn.Linear(dims.d_model, dims.d_inner, bias=False)
        self.outer = nn.Linear(dims.d_inner, dims.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the layer's output, `[B, T, D]`."""
        projected = self.qkv(self.norm_1(x_BTD)).chunk(3, dim=-1)
        q_BHTC, k_BHTC, v_BHTC = (
            x.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for x in projected
        )
        a_BHTC = F.scaled_dot_product_attention(q_BHTC, k_BHTC, v_BHTC, is_causal=True)
        x_BTD = x_BTD + self._drop(self.attended(a_BHTC.transpose(1, 2).flatten(2)))
        return x_BTD + self._drop(self.outer(F.gelu(self.inner(self.norm_2(x_BTD)))))

    def _drop(self, x_BTD: Tensor) -> Tensor:
        return F.dropout(x_BTD, self.dropout, self.training)


class TiedWords(nn.Module):
    """One table of all words: the embedding, and the weights of a full softmax."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(dims.vocab_size, dims.d_model))

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Return embeddings, `[B, T, D]`."""
        return F.embedding(ids_BT, self.table)

    def loss(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Return the mean nats of the targets; the softmax is in fp32."""
        return F.cross_entropy(F.linear(hidden_ND, self.table).float(), targets_N)


class ClusteredWords(nn.Module):
    """This trainer's adaptive embedding and softmax, without its faster kernels."""

    def __init__(self, dims: Dims) -> None:
        from measured.ours import experiment_of

        from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax

        super().__init__()
        self.cutoffs, config = dims.cutoffs, experiment_of(dims, 0.0).model
        self.embedding = AdaptiveEmbedding(config, dims.vocab_size)
        self.softmax = AdaptiveSoftmax(config, self.embedding)

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Return embeddings as large as those of one table, `[B, T, D]`."""
        scaled_BTD: Tensor = self.embedding(ids_BT, self._clusters(ids_BT))
        return scaled_BTD / math.sqrt(scaled_BTD.shape[-1])

    def loss(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Return the mean nats of the targets; the softmax is in fp32."""
        nats_N: Tensor = self.softmax(hidden_ND, targets_N, self._clusters(targets_N))
        return nats_N.mean()

    def _clusters(self, ids: Tensor) -> tuple[Tensor, ...]:
        from trainer.data.rows import clusters_of

        return tuple(x.to(ids.device) for x in clusters_of(ids.cpu().numpy(), self.cutoffs))


class GPT(nn.Module):
    """The model, at a configuration's width, depth, heads and inner size."""

    def __init__(self, dims: Dims, *, dropout: float, softmax: str) -> None:
        super().__init__()
        self.dropout = dropout
        self.words = TiedWords(dims) if softmax == "full" else ClusteredWords(dims)
        self.positions = nn.Parameter(torch.empty(dims.tgt_len + dims.mem_len, dims.d_model))
        self.blocks = nn.ModuleList(Block(dims, dropout) for _ in range(dims.n_layer))
        self.norm = nn.LayerNorm(dims.d_model, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                is_residual = name.endswith(("attended.weight", "outer.weight"))
                std = STD / math.sqrt(2 * dims.n_layer) if is_residual else STD
                nn.init.normal_(parameter, std=std)
            elif name.startswith("words"):
                nn.init.zeros_(parameter)

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean nats of the targets of each row's last tokens, as many as are given."""
        x_BTD = self.words.embed(ids_BT) + self.positions[: ids_BT.shape[1]]
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        hidden_BTD = self.norm(x_BTD[:, -targets_BT.shape[1] :])
        return self.words.loss(hidden_BTD.flatten(0, 1), targets_BT.flatten())


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW; matrices decay, norms and biases do not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)


def batch_of(dims: Dims, ids_N: Tensor, *, step: int, scores: bool) -> tuple[Tensor, Tensor]:
    """Return tokens and targets of a step, `[B, T]`.

    To score is to read one row, whose last tgt_len tokens alone have targets.
    """
    n_tokens, context = dims.n_streams * dims.tgt_len, dims.tgt_len + dims.mem_len
    first, n_read = (step * dims.tgt_len, context) if scores else (step * n_tokens, n_tokens)
    if n_read % context:
        raise SystemExit(f"{n_read} tokens a step are no whole rows of {context} for a GPT")
    ids_BT, targets_BT = (ids_N[i : i + n_read].view(-1, context) for i in (first, first + 1))
    return ids_BT, targets_BT[:, -dims.tgt_len :] if scores else targets_BT


def main(task: dict[str, Any]) -> None:
    """Serve steps of training, or of scoring."""
    dims, device = CONFIGS[task["config"]], torch.device(task["device"])
    scores = task["mode"] == "evaluate"
    torch.manual_seed(0)
    model = GPT(dims, dropout=task["dropout"], softmax=task["softmax"]).to(device)
    torch.set_float32_matmul_precision(task["matmul"])
    optimizer = optimizer_of(model)
    n_segments, n_done = task["n_segments"], 0  # after the last one the text begins anew
    ids = text(dims, n_segments=n_segments)
    ids_N = torch.from_numpy(np.resize(ids, ids.size + dims.mem_len + 1)).to(device)

    def precision() -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16) if is_bf16 else nullcontext()

    def forward() -> Tensor:
        nonlocal n_done
        batch = batch_of(dims, ids_N, step=n_done % n_segments, scores=scores)
        n_done += 1
        with precision():
            loss: Tensor = model(*batch)
        return loss

    def train() -> Tensor:
        optimizer.zero_grad()
        loss = forward()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.detach()

    is_bf16 = task["precision"] == "bf16"
    model.train(mode=not scores)
    serve(torch.no_grad()(forward) if scores else train, device=device)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
