"""Train language models that carry memory across text: Transformer-XL on DeepSpeed."""

from trainer.metrics import read_metrics

__all__ = ["read_metrics"]
