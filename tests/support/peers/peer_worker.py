"""Runs Hugging Face's TransfoXL, in a process of its own: see `peer.ask`.

Reads tasks from the JSON file named on the command line and writes each one's answer beside it.
What is bridged here, because it is the peer's own way and not the model's:

- the loss drops the last hidden state and the first label: a column is added to both;
- nats come in the order of the clusters: `keep_order` puts them back;
- in fp64 masking goes through `.float()`, and the position frequencies are rounded to fp32: both
  are kept in fp64.

That its memory starts as zeros which are attended is bridged by the tests themselves.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import TransfoXLConfig, TransfoXLLMHeadModel


def nats(model: Any, ids_BN: Tensor, *, tgt_len: int, targets_BN: Tensor) -> Tensor:
    """Return nats of `targets_BN`, read in segments of tgt_len with memory, `[B, N]`."""
    mems, parts = None, []
    for begin in range(0, ids_BN.shape[1], tgt_len):
        here = slice(begin, begin + tgt_len)
        read = model.transformer(ids_BN[:, here], mems=mems)
        mems = read.mems
        hidden_BTD, targets_BT = read.last_hidden_state, targets_BN[:, here]
        column_BD, column_B = (
            torch.zeros_like(hidden_BTD[:, :1]),
            torch.zeros_like(targets_BT[:, :1]),
        )
        told = model.crit(
            torch.cat([hidden_BTD, column_BD], dim=1), torch.cat([column_B, targets_BT], dim=1)
        )
        parts.append(told.view(targets_BT.shape))
    return torch.cat(parts, dim=1)


def parity(task: dict[str, Any], folder: Path) -> None:
    """Make a model of random weights; save its weights, nats and gradients."""
    torch.manual_seed(0)
    model = TransfoXLLMHeadModel(TransfoXLConfig(**task["config"])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder, safe_serialization=False)
    if task["dtype"] == "float64":
        model.double()
        d_model = model.config.d_model
        frequencies = torch.arange(0, d_model, 2, dtype=torch.float64) / d_model
        model.transformer.pos_emb.inv_freq = 1 / 10000**frequencies
        torch.Tensor.float = lambda self: self  # type: ignore[method-assign, assignment]
    model.crit.keep_order = True
    ids_BN = torch.tensor(task["ids"])
    nats_BN = nats(model, ids_BN[:, :-1], tgt_len=task["tgt_len"], targets_BN=ids_BN[:, 1:])
    nats_BN.sum().backward()
    answer = {f"grad.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    save_file(answer | {"nats": nats_BN.detach()}, folder / "answer.safetensors")


def score(task: dict[str, Any], folder: Path) -> None:
    """Load a model by `from_pretrained`; save its nats, and what it was missing."""
    model, report = TransfoXLLMHeadModel.from_pretrained(task["path"], output_loading_info=True)
    model.eval()
    model.crit.keep_order = True
    ids_BN = torch.tensor(task["ids"])
    with torch.no_grad():
        nats_BN = nats(model, ids_BN[:, :-1], tgt_len=task["tgt_len"], targets_BN=ids_BN[:, 1:])
    save_file({"nats": nats_BN}, folder / "answer.safetensors")
    (folder / "report.json").write_text(json.dumps(report))


def fairseq(task: dict[str, Any], folder: Path) -> None:
    """Save a fairseq checkpoint of an imported model's tensors, with a real omegaconf object."""
    from omegaconf import OmegaConf

    content = torch.load(task["path"], weights_only=False)
    torch.save(content | {"cfg": OmegaConf.create(content["cfg"])}, folder / "checkpoint_best.pt")


def main(tasks_file: Path) -> None:
    """Do every task; its answer lies in the folder that it names."""
    for task in json.loads(tasks_file.read_text()):
        folder = Path(task["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        original = torch.Tensor.float
        {"parity": parity, "score": score, "fairseq": fairseq}[task["kind"]](task, folder)
        torch.Tensor.float = original  # type: ignore[method-assign]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
