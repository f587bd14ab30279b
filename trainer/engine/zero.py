"""Questions that ZeRO asks of a model before it is cut into partitions."""

from torch import nn

from trainer.errors import InputError, first_few
from trainer.model.layer import Layer


def refuse_frozen(model: nn.Module, *, stage: int) -> None:
    """Refuse a model with weights that are not trained: ZeRO does not give them back to be saved.

    Raises:
        InputError: the weights, by name.
    """
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        raise InputError(
            f"ZeRO-{stage} cannot save weights that are not trained ({first_few(frozen)}): "
            "use a DeepSpeed file of stage 0"
        )


def layers_are_called_once(model: nn.Module) -> bool:
    """Return whether a model has Transformer-XL's layers, each in one place.

    Only then may all weights of a layer be gathered when it is called: DeepSpeed reduces their
    gradients at the end of every call, and does not expect another.
    """
    named = model.named_modules(remove_duplicate=False)
    layers = [module for _, module in named if isinstance(module, Layer)]
    return bool(layers) and len(layers) == len(set(layers))
