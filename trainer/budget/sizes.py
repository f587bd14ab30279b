"""The sizes that decide a run's memory: those of its model and of its training."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from trainer.config.model_settings import ModelConfig
from trainer.config.precision import Precision, is_autocast
from trainer.model.choice import BackendName


class Words(NamedTuple):
    """The vocabulary that a model reads, and how often its clusters occur."""

    size: int
    """Words of the vocabulary."""
    shares: tuple[float, ...]
    """Each cluster's share of the targets; 1 for the head, which predicts all of them."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Numbers of weights, of a whole model and of its parts."""

    total: int
    layer: int
    """Weights of each layer."""
    largest: int
    """Weights of the largest single parameter."""
    tables: tuple[tuple[int, int], ...]
    """Words and width of each table of the softmax; empty if the model is not ours."""
    multiplied: int = 0
    """Weights of which a GPU's kernels have copies in 16 bits; 0 if the model is not ours."""
    state_bytes: int = 0
    """Bytes of the state of a stream of another's model; 0 if the model is ours."""

    @property
    def is_ours(self) -> bool:
        """True if the model is Transformer-XL, of which more is known than its weights."""
        return bool(self.tables)

    @classmethod
    def of(cls, config: ModelConfig, vocabulary_size: int) -> "Weights":
        """Return the weights of the Transformer-XL that `trainer.model` builds."""
        d, f, x = config.d_model, config.d_inner, config.n_head * config.d_head
        bounds = (0, *config.cutoffs, vocabulary_size)
        widest, n_tails = config.d_embed or d, len(config.cutoffs)
        widths = [widest // config.div_val**c for c in range(n_tails + 1)]
        words = [high - low for low, high in pairwise(bounds)]
        tables = tuple(zip(words, widths, strict=True))
        in_tables = sum(n * width for n, width in tables)
        is_projected = config.div_val > 1 or widest != d
        # One width needs one projection, several widths one each. The softmax has untied ones only.
        into_model = (widths if config.div_val > 1 else widths[:1]) if is_projected else []
        n_untied = {"none": n_tails + 1, "tails": 1, "all": 0}[config.tie_projections]
        out_of_it = widths[:n_untied] if is_projected else []
        biases = 2 * x
        in_matrices = 5 * d * x + 2 * d * f
        layer = in_matrices + 4 * d + f + d
        layer += biases if config.position_biases == "per_layer" else 0
        others = d * (sum(into_model) + sum(out_of_it)) + vocabulary_size + n_tails * (widest + 1)
        others += biases if config.position_biases == "shared" else 0
        others += d * (config.token_tables * vocabulary_size + config.pair_rows)
        return cls(
            total=config.n_layer * layer + in_tables * (1 if config.tie_embedding else 2) + others,
            layer=layer,
            largest=max(
                2 * d * x,
                d * f,
                d * widest * is_projected,
                *words,
                d * vocabulary_size * (config.token_tables > 0),
                d * config.pair_rows,
                *(n * width for n, width in tables),
            ),
            tables=tables,
            multiplied=config.n_layer * in_matrices + in_tables,
        )


@dataclass(frozen=True, kw_only=True)
class How:
    """The facts of a run's training on which its memory depends."""

    backend: BackendName
    precision: Precision
    stage: int
    world_size: int
    micro: int
    slots: int
    offload: bool
    bucket: int
    """Elements of DeepSpeed's bucket of gradients."""
    on_gpu: bool
    fused_adam: bool
    captured: bool = False
    """True if micro steps are captured as CUDA graphs, whose memory nothing else may use."""

    @property
    def keeps_copies(self) -> bool:
        """Return whether fp32 weights have copies in 16 bits that last."""
        on_kernels = self.backend == "triton"
        return on_kernels and self.stage == 0 and is_autocast(self.precision)

    @property
    def keeps_gradients(self) -> bool:
        """Return whether ZeRO's gradients stay whole on a rank until the update reduces them."""
        return self.stage == 1 and not self.offload

    @property
    def share(self) -> float:
        """Return the fraction of the optimizer's state that lies on one rank."""
        return 1 / self.world_size if self.stage > 0 else 1.0
