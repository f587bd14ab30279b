"""Published results of the recipes: what others measured, to stand beside our own, marked."""

from typing import NamedTuple


class Published(NamedTuple):
    """A result on the test split, as its authors give it."""

    by: str
    metric: str
    """``ppl`` or ``bpc``."""
    mean: float
    deviation: float | None = None


#: Dai et al. 2019 (arXiv:1901.02860), table 1 to 3; NVIDIA's README of Transformer-XL for PyTorch.
PUBLISHED: dict[str, Published] = {
    "wt103-base": Published("Dai et al. 2019", "ppl", 24.0),
    "wt103-large": Published("Dai et al. 2019, TensorFlow", "ppl", 18.3),
    "wt103-nvidia-base": Published("NVIDIA", "ppl", 23.24, 0.08),
    "wt103-nvidia-large": Published("NVIDIA", "ppl", 18.17, 0.04),
    "wt103-nvidia-large-multinode": Published("NVIDIA", "ppl", 18.30, 0.03),
    "enwik8-base": Published("Dai et al. 2019", "bpc", 1.06),
    "enwik8-large": Published("Dai et al. 2019, TensorFlow", "bpc", 0.99),
    "text8-large": Published("Dai et al. 2019, TensorFlow", "bpc", 1.08),
}
