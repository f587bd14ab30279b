"""A model for the tests of faults: Transformer-XL whose loss is not finite where a token occurs."""

from typing import Any

from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.model.memory.inputs import LayerInputs
from trainer.model.memory.written import KeysAndValues
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Output, Segment


class PoisonedXL(TransformerXL):
    """Rows that read the vocabulary's last token lose their loss, and their memory, to NaN."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        self.poison = vocabulary_size - 1

    def forward(
        self,
        segment: Segment,
        memory: LayerInputs | KeysAndValues,
        *,
        clamp_len: int | None = None,
        same_length: bool = False,
        attached: bool = False,
    ) -> Output:
        lengths: dict[str, Any] = {"clamp_len": clamp_len, "same_length": same_length}
        output = super().forward(segment, memory, **lengths, attached=attached)
        assert output.nll_BT is not None
        poisoned_BT = segment.tokens_BT == self.poison
        after = output.memory
        if isinstance(after, LayerInputs):
            poisoned_B11 = poisoned_BT.any(dim=1)[:, None, None]
            layers = tuple(x * _nan_where(poisoned_B11, x) for x in after.layers)
            after = after._replace(layers=layers)
        return Output(
            loss_sum=output.loss_sum * _nan_where(poisoned_BT.any(), output.loss_sum),
            nll_BT=output.nll_BT * _nan_where(poisoned_BT, output.nll_BT),
            memory=after,
        )


def _nan_where(poisoned: Tensor, like: Tensor) -> Tensor:
    """Return NaN where `poisoned`, else one."""
    one = like.new_ones(())
    return one.where(~poisoned, float("nan"))


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory poisoned_model:build`."""
    return PoisonedXL(config, vocabulary_size)
