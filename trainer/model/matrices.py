"""Which of a model's parameters are parts of one matrix: cut for speed, not for what they are."""

from torch import Tensor, nn

from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from trainer.model.attention import RelativeAttention


def matrices(model: nn.Module) -> dict[str, str]:
    """By parameter name, the name of the matrix's first part: mostly the parameter itself.

    The authors' model has one projection of queries, keys and values, and one table and one bias
    for all words as long as all clusters are equally wide.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    found = {name: name for name in names.values()}
    for module in model.modules():
        parts: list[list[Tensor]] = []
        if isinstance(module, RelativeAttention):
            parts = [[module.query.weight, module.key_value.weight]]
        elif isinstance(module, AdaptiveEmbedding | AdaptiveSoftmax):
            if len({table.shape[1] for table in module.tables}) > 1:
                continue
            parts = [list(module.tables)]
            if isinstance(module, AdaptiveSoftmax):
                parts.append(list(module.biases))
        for first, *others in parts:
            found |= {names[id(other)]: names[id(first)] for other in others}
    return found
