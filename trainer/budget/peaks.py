"""Peak speeds of GPUs, as their makers print them: dense products, in 10^12 operations per second.

A GPU that is not here has no peak, nor has a part of a GPU (MIG): nothing is guessed.
"""

import re
from typing import NamedTuple

from trainer.config.precision import Precision, arithmetic_of


class Peak(NamedTuple):
    """The most operations per second, in 10^12; None where the GPU has no such units."""

    fp16: float
    bf16: float | None
    tf32: float | None
    fp32: float


_H100 = Peak(fp16=989.4, bf16=989.4, tf32=494.7, fp32=66.9)
_NVL = Peak(fp16=835.5, bf16=835.5, tf32=417.5, fp32=60.0)
#: By what stands in the name that `torch.cuda.get_device_name` returns; the first that fits counts.
PEAKS: dict[str, Peak] = {
    "H100 PCIe": Peak(fp16=756.0, bf16=756.0, tf32=378.0, fp32=51.0),
    "H100 NVL": _NVL,
    "H100 80GB HBM3": _H100,
    "H200 NVL": _NVL,
    "H200": _H100,
    "A100": Peak(fp16=312.0, bf16=312.0, tf32=156.0, fp32=19.5),
    "A40": Peak(fp16=149.7, bf16=149.7, tf32=74.8, fp32=37.4),
    "A30": Peak(fp16=165.0, bf16=165.0, tf32=82.0, fp32=10.3),
    "A10": Peak(fp16=125.0, bf16=125.0, tf32=62.5, fp32=31.2),
    "RTX A6000": Peak(fp16=154.8, bf16=154.8, tf32=77.4, fp32=38.7),
    "L40S": Peak(fp16=362.0, bf16=362.0, tf32=183.0, fp32=91.6),
    "L40": Peak(fp16=181.0, bf16=181.0, tf32=90.5, fp32=90.5),
    "L4": Peak(fp16=121.0, bf16=121.0, tf32=60.0, fp32=30.3),
    "RTX 4090": Peak(fp16=165.2, bf16=165.2, tf32=82.6, fp32=82.6),
    "RTX 3090": Peak(fp16=71.0, bf16=71.0, tf32=35.6, fp32=35.6),
    "V100-SXM2": Peak(fp16=125.0, bf16=None, tf32=None, fp32=15.7),
    "V100-PCIE": Peak(fp16=112.0, bf16=None, tf32=None, fp32=14.0),
    "T4": Peak(fp16=65.0, bf16=None, tf32=None, fp32=8.1),
}


def peak_tflops(gpu: str, precision: Precision, *, tf32: bool) -> float | None:
    """Return the peak of a GPU in the precision that a model is trained in; None if not known.

    Args:
        gpu: its name, as torch has it.
        precision: the precision of training.
        tf32: whether products in fp32 take TF32 factors.
    """
    if re.search(r"\bMIG\b", gpu):
        return None
    peak = next((peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", gpu)), None)
    if peak is None:
        return None
    arithmetic = arithmetic_of(precision)
    if arithmetic == "fp32" and tf32 and peak.tf32 is not None:
        return peak.tf32
    return {"fp16": peak.fp16, "bf16": peak.bf16, "fp32": peak.fp32}[arithmetic]
