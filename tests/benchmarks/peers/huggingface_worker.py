"""Hugging Face's TransfoXL: its own forward and loss, clipping at 0.25, Adam; bf16 by autocast."""

import json
import sys
from pathlib import Path

import torch
from measured.dims import CONFIGS, text
from measured.worker import serve
from transformers import TransfoXLConfig, TransfoXLLMHeadModel


def main(task: dict[str, object]) -> None:
    """Serve steps of training, or of evaluation."""
    dims, device = CONFIGS[str(task["config"])], torch.device(str(task["device"]))
    torch.manual_seed(0)
    config = TransfoXLConfig(**dims.huggingface(dropout=float(str(task["dropout"]))))
    model = TransfoXLLMHeadModel(config)
    if weights := task.get("save_weights"):
        model.save_pretrained(str(weights), safe_serialization=False)
    model.to(device)
    torch.set_float32_matmul_precision(str(task["matmul"]))
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4)
    ids_BN = torch.from_numpy(text(dims, n_segments=int(str(task["n_segments"])))).to(device)
    segments = iter(ids_BN.split(dims.tgt_len, dim=1))
    mems, is_bf16 = None, task["precision"] == "bf16"

    def train() -> torch.Tensor:
        nonlocal mems
        ids_BT = next(segments)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            output = model(ids_BT, mems=mems, labels=ids_BT)
        mems, loss = output.mems, output.losses.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        return loss.detach()

    def evaluate() -> torch.Tensor:
        nonlocal mems
        ids_BT = next(segments)
        with torch.no_grad():
            output = model(ids_BT, mems=mems, labels=ids_BT)
        mems = output.mems
        return output.losses.mean()

    model.train(mode=task["mode"] == "train")
    serve(train if task["mode"] == "train" else evaluate, device=device)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
