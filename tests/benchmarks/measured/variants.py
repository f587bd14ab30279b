"""Who is measured: our trainer's variants, its peers, and who is held against whom."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

OURS_WORKER, GPT_WORKER = "ours_worker.py", "peers/gpt_worker.py"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An implementation, and how it is run."""

    name: str
    script: str
    precision: str = "fp32"
    """Of a training step's products: fp32, bf16 or fp16."""
    matmul: str = "highest"
    """What `torch.set_float32_matmul_precision` is told; ours chooses itself at `highest`."""
    ds_config: str = ""
    checkout: str = ""
    """Whose code it is, if not this one's."""
    kernels: str = "auto"
    cuda_graph: str = "auto"
    """Ours: whether micro steps are captured."""
    softmax: str = "full"
    """Of a GPT: `full`, or `adaptive` with our clusters."""

    @property
    def is_another_model(self) -> bool:
        """Return whether this is no Transformer-XL, whose losses are not those of ours."""
        return self.script == GPT_WORKER

    @property
    def is_earlier(self) -> bool:
        """Return whether this is the project as it was."""
        return self.script == OURS_WORKER and self.checkout != ""


Pair = tuple[Variant, Variant]
"""Ours, and the peer."""


def peer_variants(told: str) -> tuple[Variant, ...]:
    """Return the variants that `--peer` names, which is a word of `PEERS` or ``NAME=PATH``.

    They are: as shipped, with medium products of matrices, and of a GPT with bf16 autocast. Of an
    earlier state of this project there is one, which stands for each of ours.
    """
    name, _, path = told.partition("=")
    checkout = str(Path(path).resolve()) if path else ""
    if name == "earlier" and path:
        return (Variant(name=name, script=OURS_WORKER, checkout=checkout),)
    if name in ("gpt", "gpt-adaptive") and not path:
        how: dict[str, Any] = {
            "script": GPT_WORKER,
            "softmax": "full" if name == "gpt" else "adaptive",
        }
        return (
            Variant(name=f"{name}, fp32", **how),
            Variant(name=f"{name}, medium matmul", matmul="medium", **how),
            Variant(name=f"{name}, bf16 autocast", precision="bf16", **how),
        )
    if name == "huggingface" and not path:
        script = "peers/huggingface_worker.py"
    elif name in ("kimiyoung", "nvidia") and path:
        script = "peers/mem_transformer_worker.py"
    else:
        raise argparse.ArgumentTypeError(
            "is huggingface, gpt, gpt-adaptive, kimiyoung=PATH, nvidia=PATH or earlier=PATH"
        )
    return (
        Variant(name=f"{name}, as shipped", script=script, checkout=checkout),
        Variant(name=f"{name}, medium matmul", script=script, checkout=checkout, matmul="medium"),
    )


OURS = {
    "cpu": (
        Variant(name="ours, fp32", script=OURS_WORKER, ds_config="zero0_fp32"),
        Variant(
            name="ours, bf16 autocast",
            script=OURS_WORKER,
            ds_config="zero0_bf16_autocast",
            precision="bf16",
        ),
    ),
    "cuda": (
        Variant(name="ours, bf16", script=OURS_WORKER, ds_config="zero1_bf16", precision="bf16"),
        Variant(name="ours, fp16", script=OURS_WORKER, ds_config="zero1_fp16", precision="fp16"),
    ),
}
#: Evaluation has no DeepSpeed, and is in fp32.
SCORING = (Variant(name="ours, fp32", script=OURS_WORKER),)


def pairs(peers: tuple[Variant, ...], *, device: str, scores: bool, only: str = "") -> list[Pair]:
    """Return who is held against whom: ours whose name holds `only`, each against a peer.

    A trainer of the same model is run as it is shipped, whatever the precision of ours; another
    model in ours; an earlier state of this project as ours. On a CPU our fp32 also meets the peer
    with medium products of matrices.
    """
    first, *others = peers
    found = list[Pair]()
    for ours in SCORING if scores else OURS[device]:
        if only not in ours.name:
            continue
        if first.is_earlier:
            earlier = replace(ours, name=f"earlier {ours.name}", checkout=first.checkout)
            found.append((ours, earlier))
        elif not first.is_another_model:
            found.append((ours, first))
        else:
            found += [
                (ours, p) for p in peers if (p.precision, p.matmul) == (ours.precision, "highest")
            ]
        medium = [peer for peer in others if peer.matmul == "medium"]
        if device == "cpu" and not only and ours.precision == "fp32":
            found += [(ours, peer) for peer in medium]
    return found
