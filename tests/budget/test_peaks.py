"""The peak of a GPU is the printed one in the precision trained, or nothing."""

import pytest

from trainer.budget.peaks import peak_tflops

#: Names as torch has them.
BF16 = {
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.4,
    "NVIDIA L40S": 362.0,
    "NVIDIA L4": 121.0,
    "NVIDIA A10": 125.0,
    "Tesla T4": None,
    "Tesla V100-SXM2-32GB": None,
    "NVIDIA A10G": None,
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb": None,
    "NVIDIA GB10": None,
    "AMD Instinct MI300X": None,
}


@pytest.mark.parametrize("gpu", BF16)
def test_a_gpu_has_the_peak_that_is_printed_on_it(gpu: str) -> None:
    for precision in ("bf16", "bf16_autocast"):
        assert peak_tflops(gpu, precision, tf32=False) == BF16[gpu]


def test_products_in_fp32_have_the_peak_of_their_factors() -> None:
    assert peak_tflops("NVIDIA H200", "fp32", tf32=True) == 494.7
    assert peak_tflops("NVIDIA H200", "fp32", tf32=False) == 66.9
    assert peak_tflops("Tesla V100-SXM2-32GB", "fp32", tf32=True) == 15.7
    assert peak_tflops("Tesla T4", "fp16_autocast", tf32=True) == 65.0
