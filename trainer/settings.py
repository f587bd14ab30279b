"""What is trained: the experiment's settings, frozen and checked, a unit and a meaning per field.

How it is trained (precision, ZeRO, offload, a fused optimizer) is the DeepSpeed JSON's business:
see `trainer.ds_config`. Each field says what may happen to it on resume:
``free`` changes are taken silently, ``announced`` ones need ``--allow-change FIELD``, all others
are refused.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.divisors import divisors_near

#: Of any size of a network: products of three are still numbers of bytes.
MAX_SIZE = 1_000_000

OnResume = Literal["free", "announced", "refused"]


def _field(default: Any, meaning: str, *, resume: OnResume = "refused", **limits: Any) -> Any:
    return Field(
        default=default, description=meaning, json_schema_extra={"on_resume": resume}, **limits
    )


def _announced(default: Any, meaning: str, **limits: Any) -> Any:
    return _field(default, meaning, resume="announced", **limits)


def _free(default: Any, meaning: str, **limits: Any) -> Any:
    return _field(default, meaning, resume="free", **limits)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _counts_are_exact(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > 2**53:
                raise ValueError(f"{name} is beyond 2**53, where JSON's numbers are not exact")
        return self


class ModelConfig(_Part):
    """Sizes of the network (Dai et al. 2019, section 3 and appendix)."""

    factory: str | None = _field(
        None, "another model of the same Protocol, 'package:build'; None is Transformer-XL"
    )
    n_layer: int = _field(..., "layers", ge=1, le=MAX_SIZE)
    d_model: int = _field(..., "width of the residual stream; even", ge=2, le=MAX_SIZE)
    n_head: int = _field(..., "attention heads", ge=1, le=MAX_SIZE)
    d_head: int = _field(..., "width of one attention head", ge=1, le=MAX_SIZE)
    d_inner: int = _field(..., "hidden width of the feed-forward layer", ge=1, le=MAX_SIZE)
    d_embed: int | None = _field(
        None, "width of the first cluster's embedding; None is d_model", ge=1, le=MAX_SIZE
    )
    cutoffs: tuple[int, ...] = _field(
        (), "first word ids of the adaptive softmax's tail clusters; empty is a full softmax",
        max_length=64,
    )  # fmt: skip
    div_val: int = _field(
        1, "each cluster's embedding is this many times narrower", ge=1, le=MAX_SIZE
    )
    tie_embedding: bool = _field(True, "the softmax reads the embedding's weights")
    tie_projections: Literal["none", "tails", "all"] = _field(
        "tails", "which cluster projections the softmax shares with the embedding"
    )
    norm: Literal["post", "pre"] = _field("post", "LayerNorm after or before each sublayer")
    position_biases: Literal["shared", "per_layer"] = _field(
        "shared", "whether all layers share the content and position biases u and v"
    )
    dropout: float = _announced(0.1, "dropout probability", ge=0, lt=1)
    attn_dropout: float = _announced(0.0, "dropout probability of attention weights", ge=0, lt=1)
    init_std: float = _field(0.02, "standard deviation of initial weights", gt=0)
    projection_init_std: float = _field(
        0.01, "standard deviation of initial cluster projections", gt=0
    )
    kernels: Literal["auto", "plain"] = _free(
        "auto", "auto takes what is fastest on the device; plain is PyTorch's own operations"
    )
    activation_checkpointing: bool = _free(
        False, "recompute each layer in the backward pass instead of keeping it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is odd: sine and cosine share it in halves")
        if list(self.cutoffs) != sorted(set(self.cutoffs)) or min(self.cutoffs, default=1) < 1:
            raise ValueError(f"cutoffs {self.cutoffs} do not ascend from at least 1")
        if (self.d_embed or self.d_model) < self.div_val ** len(self.cutoffs):
            raise ValueError(
                f"div_val {self.div_val} leaves the embedding's last of {len(self.cutoffs) + 1} "
                f"clusters no width: lower --model.div-val or give fewer --model.cutoffs"
            )
        if self.factory is not None and self.factory.count(":") != 1:
            raise ValueError(f"factory {self.factory!r} is not of the form 'package:build'")
        return self


def _same_length_has_memory(part: Any) -> Any:
    if part.same_length and part.mem_len == 0:
        raise ValueError(
            "same_length with mem_len 0 leaves a query no key: set mem_len, or same_length false"
        )
    return part


class TrainConfig(_Part):
    """What one step reads, and when training ends."""

    train_batch_size: int = _field(..., "streams read by one step, over all ranks and slots", ge=1)
    train_micro_batch_size_per_gpu: int | None = _announced(
        None, "streams of one micro step on one rank; None is the most that fits one slot", ge=1
    )
    tgt_len: int = _field(..., "tokens of every stream that one step predicts", ge=1)
    mem_len: int = _field(..., "tokens of memory per layer and stream", ge=0)
    clamp_len: int | None = _field(
        None, "distances beyond this many tokens share a position; None is no clamp", ge=1
    )
    same_length: bool = _field(False, "every query sees exactly mem_len keys")
    max_steps: int = _announced(..., "updates after which training ends", ge=1)

    _memory = model_validator(mode="after")(_same_length_has_memory)


class OptimConfig(_Part):
    """How an update follows from a gradient: the rule, and the learning rate's shape."""

    type: Literal["Adam", "AdamW", "Lamb"] = _field(
        "Adam", "the rule; weight decay joins Adam's gradient, but AdamW's and Lamb's update"
    )
    lr: float = _announced(..., "peak learning rate", gt=0)
    min_lr: float = _announced(0.0, "learning rate at the start of warm-up and at the end", ge=0)
    warmup_steps: int = _announced(0, "updates of linear warm-up", ge=0)
    betas: tuple[float, float] = _field((0.9, 0.999), "the moments' decay rates")
    eps: float = _field(1e-8, "denominator offset", gt=0)
    weight_decay: float = _field(0.0, "weight decay coefficient", ge=0)
    gradient_clipping: float = _announced(
        0.25, "largest global norm of the gradient; 0 is no clipping", ge=0
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} exceeds lr {self.lr}: lower --optim.min-lr")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} are not in [0, 1)")
        return self


class DataConfig(_Part):
    """How the text is read."""

    epoch_order: Literal["same", "roll"] = _field(
        "same", "whether every epoch starts at the corpus's start or at a seeded offset"
    )
    memory_reset: Literal["epoch", "document", "never"] = _field(
        "epoch", "where memory is forgotten"
    )


class ScoringConfig(_Part):
    """How text is scored: every token but the first, exactly once."""

    tgt_len: int = _free(..., "tokens of every row scored by one forward pass", ge=1)
    mem_len: int = _free(..., "tokens of memory per layer and row", ge=0)
    clamp_len: int | None = _free(
        None, "distances beyond this many tokens share a position; None is no clamp", ge=1
    )
    same_length: bool = _free(False, "every query sees exactly mem_len keys")
    batch_size: int = _free(8, "rows of text read side by side on one rank", ge=1)
    warm: Literal["exact", "near"] = _free(
        "exact", "rows start with the memory of all, or of one layer's reach of, the text before"
    )

    _memory = model_validator(mode="after")(_same_length_has_memory)


class ValidConfig(ScoringConfig):
    """Evaluation during training."""

    interval_steps: int = _free(1000, "steps between evaluations; 0 is never", ge=0)
    patience: int | None = _free(
        None, "evaluations without a new best after which training ends; None is never", ge=1
    )


class SampleConfig(_Part):
    """Text sampled during training."""

    interval_steps: int = _free(0, "steps between samples; 0 is never", ge=0)
    prompt: str = _free("", "text that the sample continues")
    n_tokens: int = _free(64, "tokens sampled", ge=1)
    temperature: float = _free(0.8, "softmax temperature; 0 takes the likeliest", ge=0)


class CheckpointConfig(_Part):
    """When the state of the run is saved."""

    interval_steps: int = _free(1000, "steps between checkpoints; 0 is only at the end", ge=0)
    keep_last: int = _free(2, "newest checkpoints kept, beside the best", ge=1)


class TrackingConfig(_Part):
    """Where metrics go beside `metrics.jsonl`."""

    log_interval_steps: int = _free(25, "steps between records", ge=1)
    wandb: Literal["auto", "online", "offline", "disabled"] = _free(
        "auto", "auto is online with a key and offline without; WANDB_MODE overrides"
    )
    project: str = _free("txl", "wandb project")
    entity: str | None = _free(None, "wandb entity")
    name: str | None = _free(None, "wandb run name; None is the run directory's")
    group: str | None = _free(None, "wandb group")
    tags: tuple[str, ...] = _free((), "wandb tags")
    tensorboard: bool = _free(False, "write TensorBoard events under logs/")


class LimitsConfig(_Part):
    """What a run puts up with before it stops by itself."""

    time_limit_s: float | None = _free(
        None, "seconds of wall clock after which the run checkpoints and asks to be requeued", gt=0
    )
    nonfinite_steps: int = _free(
        5, "non-finite losses in a row after which the run rolls back, once", ge=1
    )
    distributed_timeout_s: float = _free(1800.0, "seconds a collective may take", gt=0)


class ExpectConfig(_Part):
    """What a run is held to once it is done; one that misses it says so by its exit code."""

    ppl: float | None = _free(
        None, "largest perplexity per token of the best validation; None is any", ge=1
    )
    tokens_per_s: float | None = _free(
        None, "fewest tokens per second in steps, over the whole run; None is any", gt=0
    )


class ExperimentConfig(_Part):
    """Everything that decides what is trained."""

    seed: int = _field(1111, "seed of initialisation, dropout, roll and sampling", ge=0)
    model: ModelConfig = _field(..., "the network")
    train: TrainConfig = _field(..., "what one step reads")
    optim: OptimConfig = _field(..., "optimizer and learning rate")
    data: DataConfig = _field(DataConfig(), "how the text is read")
    valid: ValidConfig = _field(..., "evaluation during training")
    eval: ScoringConfig = _field(..., "what `txl eval` does by default")
    sample: SampleConfig = _field(SampleConfig(), "samples during training")
    checkpoint: CheckpointConfig = _field(CheckpointConfig(), "what is saved, and when")
    tracking: TrackingConfig = _field(TrackingConfig(), "where metrics go")
    limits: LimitsConfig = _field(LimitsConfig(), "when a run gives up")
    expect: ExpectConfig = _field(ExpectConfig(), "what a run is held to")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.optim.warmup_steps > self.train.max_steps:
            raise ValueError(
                f"optim.warmup_steps {self.optim.warmup_steps} exceeds "
                f"train.max_steps {self.train.max_steps}: set --optim.warmup-steps to at most "
                f"that, 0 for none, or raise --train.max-steps"
            )
        micro = self.train.train_micro_batch_size_per_gpu
        if micro and self.train.train_batch_size % micro:
            raise ValueError(
                f"train.train_micro_batch_size_per_gpu {micro} does not divide "
                f"train.train_batch_size {self.train.train_batch_size}: "
                f"use {divisors_near(self.train.train_batch_size, micro)}"
            )
        if self.expect.ppl is not None and self.valid.interval_steps == 0:
            raise ValueError(
                f"expect.ppl {self.expect.ppl:g} needs validations: set valid.interval_steps"
            )
        if self.valid.patience is not None and self.valid.interval_steps == 0:
            raise ValueError(
                f"valid.patience {self.valid.patience} counts validations, and there are none: "
                "set valid.interval_steps"
            )
        return self
