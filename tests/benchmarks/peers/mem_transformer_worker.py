"""`MemTransformerLM` of a checkout of kimiyoung's or NVIDIA's code: its forward, clipping, Adam.

Nothing of theirs is copied here; what old code expects of its surroundings is put around it.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from measured.dims import CONFIGS, Dims, text
from measured.worker import serve
from torch import Tensor


def model_class(style: str, checkout: Path) -> Any:
    """Import the class under today's PyTorch."""
    if not (checkout / "mem_transformer.py").is_file():
        raise SystemExit(f"{checkout} has no mem_transformer.py: give its `pytorch` folder")
    if style == "kimiyoung":
        sys.path[:0] = [str(checkout), str(checkout / "utils")]
        torch.version.cuda = torch.version.cuda or "11.0"  # it takes the number apart
        torch.Tensor.byte = lambda self: self.bool()  # type: ignore[method-assign]  # its masks
    else:
        sys.path.insert(0, str(checkout))
        for name in ("dllogger", "pynvml"):  # its logging, imported with all the rest
            sys.modules.setdefault(name, ModuleType(name))
        sys.modules["pynvml"].nvmlInit = lambda: None  # type: ignore[attr-defined]
    from mem_transformer import MemTransformerLM

    return MemTransformerLM


def settings(dims: Dims, *, style: str, dropout: float) -> dict[str, Any]:
    """Return arguments of the class."""
    own = {"dtype": None} if style == "nvidia" else {}
    return {
        "n_token": dims.vocab_size,
        "n_layer": dims.n_layer,
        "n_head": dims.n_head,
        "d_model": dims.d_model,
        "d_embed": dims.d_model,
        "d_head": dims.d_head,
        "d_inner": dims.d_inner,
        "dropout": dropout,
        "dropatt": 0.0,
        "tie_weight": True,
        "div_val": 1,
        "tie_projs": [False] + [True] * len(dims.cutoffs),
        "pre_lnorm": False,
        "tgt_len": dims.tgt_len,
        "ext_len": 0,
        "mem_len": dims.mem_len,
        "cutoffs": list(dims.cutoffs),
        "same_length": dims.same_length,
        "attn_type": 0,
        "clamp_len": dims.clamp_len,
        "sample_softmax": -1,
        **own,
    }


def segments(dims: Dims, n_segments: int, device: torch.device) -> Any:
    """Yield inputs and targets `[tgt_len, n_streams]`; rows go on, as our streams do."""
    ids = np.append(text(dims, n_segments=n_segments).reshape(-1), 0)
    both = [torch.from_numpy(x).view(dims.n_streams, -1).t() for x in (ids[:-1], ids[1:])]
    return zip(*(x.contiguous().to(device).split(dims.tgt_len) for x in both), strict=True)


def main(task: dict[str, Any]) -> None:
    """Serve steps of training, or of evaluation."""
    dims, device, style = CONFIGS[task["config"]], torch.device(task["device"]), task["style"]
    torch.manual_seed(0)
    given = settings(dims, style=style, dropout=task["dropout"])
    model = model_class(style, Path(task["checkout"]))(**given)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith("layer_norm.weight") else 0.0, 0.02)
    if weights := task.get("save_weights"):  # in NVIDIA's layout, which says all
        Path(weights).mkdir()
        content = {"model_config": given, "model_state": model.state_dict()}
        torch.save(content, Path(weights) / "checkpoint_best.pt")
    model.to(device)
    torch.set_float32_matmul_precision(task["matmul"])
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4)
    coming = segments(dims, task["n_segments"], device)
    mems: Any = () if style == "kimiyoung" else None

    def forward() -> Tensor:
        nonlocal mems
        if style == "kimiyoung":
            nats, *mems = model(*next(coming), *mems)
        else:
            nats, mems = model(*next(coming), mems)
        return nats.float().mean()

    def train() -> Tensor:
        model.zero_grad()
        loss = forward()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        return loss.detach()

    def evaluate() -> Tensor:
        with torch.no_grad():
            return forward()

    model.train(mode=task["mode"] == "train")
    serve(train if task["mode"] == "train" else evaluate, device=device)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
