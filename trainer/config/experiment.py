"""Settings of the experiment, frozen and checked; every field has a unit and a meaning.

The DeepSpeed JSON says how to train (precision, ZeRO, offload, a fused optimizer): see
`trainer.config.deepspeed.file`. The kind of each field says whether it may change on resume: see
`trainer.config.fields`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import GetCoreSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from trainer.config.divisors import divisors_near
from trainer.config.fields import Section, announced, free, refused
from trainer.config.kinds import FACTORIES, Kind
from trainer.config.lengths import Schedule, Stage, problem, stages
from trainer.config.run_settings import (
    CheckpointConfig,
    ExpectConfig,
    LimitsConfig,
    SampleConfig,
    TrackingConfig,
)

#: The largest size in a network: the product of three such sizes is still a possible byte count.
MAX_SIZE = 1_000_000


class _OrNull:
    """The mark of a field that is null where a factory's recipe leaves it out."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.nullable_schema(handler(source))


#: A size that Transformer-XL always has. A factory's recipe may leave it out, then it is None: who
#: reads it there is the factory alone.
Size: TypeAlias = Annotated[int, _OrNull]


def _demanded(meaning: str, *, ge: int = 1) -> Any:
    """Make the field of a `Size`, which must be given unless there is a factory."""
    return refused(None, meaning, ge=ge, le=MAX_SIZE, validate_default=True)


class ModelConfig(Section):
    """Sizes of the network (Dai et al. 2019, section 3 and appendix)."""

    kind: Kind = refused(
        "transformer-xl",
        "a model of the package; the sizes of all but transformer-xl are options of their own, "
        "--model.options.NAME, and those here are not read",
    )
    factory: str | None = refused(
        None,
        "another model of the same Protocol, 'package:build'; None is the kind; what its "
        "function takes as options are flags, too: --model.options.NAME",
    )
    options: dict[str, Any] = refused({}, "the options of the factory, or of the kind")
    n_layer: Size = _demanded("layers")
    d_model: Size = _demanded("width of the residual stream; even", ge=2)
    n_head: Size = _demanded("attention heads")
    d_head: Size = _demanded("width of one attention head")
    d_inner: Size = _demanded("hidden width of the feed-forward layer")
    d_embed: int | None = refused(
        None, "width of the first cluster's embedding; None is d_model", ge=1, le=MAX_SIZE
    )
    cutoffs: tuple[int, ...] = refused(
        (),
        "first word ids of the adaptive softmax's tail clusters; empty is a full softmax",
        max_length=64,
    )
    div_val: int = refused(
        1, "each cluster's embedding is this many times narrower", ge=1, le=MAX_SIZE
    )
    tie_embedding: bool = refused(True, "the softmax reads the embedding's weights")
    tie_projections: Literal["none", "tails", "all"] = refused(
        "tails", "which cluster projections the softmax shares with the embedding"
    )
    norm: Literal["post", "pre"] = refused("post", "LayerNorm after or before each sublayer")
    position_biases: Literal["shared", "per_layer"] = refused(
        "shared", "whether all layers share the content and position biases u and v"
    )
    dropout: float = announced(0.1, "dropout probability", ge=0, lt=1)
    attn_dropout: float = announced(0.0, "dropout probability of attention weights", ge=0, lt=1)
    init_std: float = refused(0.02, "standard deviation of initial weights", gt=0)
    projection_init_std: float = refused(
        0.01, "standard deviation of initial cluster projections", gt=0
    )
    kernels: Literal["auto", "plain"] = free(
        "auto", "auto takes what is fastest on the device; plain is PyTorch's own operations"
    )
    activation_checkpointing: bool = free(
        False, "recompute each layer in the backward pass instead of keeping it"
    )

    @field_validator("n_layer", "d_model", "n_head", "d_head", "d_inner")
    @classmethod
    def _given_for_ours(cls, size: int | None, info: ValidationInfo) -> int | None:
        if size is None and _builder(info.data) is None:
            raise PydanticKnownError("missing")
        return size

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.d_model and self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is odd: sine and cosine share it in halves")
        if list(self.cutoffs) != sorted(set(self.cutoffs)) or min(self.cutoffs, default=1) < 1:
            raise ValueError(f"cutoffs {self.cutoffs} do not ascend from at least 1")
        widest = self.d_embed or self.d_model
        if widest and widest < self.div_val ** len(self.cutoffs):
            raise ValueError(
                f"div_val {self.div_val} leaves the embedding's last of {len(self.cutoffs) + 1} "
                f"clusters no width: lower --model.div-val or give fewer --model.cutoffs"
            )
        if self.factory is not None and self.factory.count(":") != 1:
            raise ValueError(f"factory {self.factory!r} is not of the form 'package:build'")
        if self.factory is not None and self.kind in FACTORIES:
            raise ValueError(f"kind {self.kind} and factory {self.factory!r}: give one of them")
        if self.options and self.builder is None:
            raise ValueError(
                f"options {', '.join(self.options)} are a factory's, and there is no factory: name "
                "one with --model.factory, or a --model.kind, or leave them out"
            )
        return self

    @property
    def builder(self) -> str | None:
        """The factory that builds the model, of the package or another's; None is Transformer-XL.

        Only `factory` names code that is not the package's own.
        """
        return _builder(dict(self))


def _builder(values: Mapping[str, Any]) -> str | None:
    """Return the factory that the fields `factory` and `kind` name, of those that are there."""
    factory: str | None = values.get("factory")
    return factory or FACTORIES.get(values.get("kind", ""))


def _same_length_has_memory(part: Any) -> Any:
    if part.same_length and part.mem_len == 0:
        raise ValueError(
            "same_length with mem_len 0 leaves a query no key: set mem_len, or same_length false"
        )
    return part


class TrainConfig(Section):
    """Text of a step, and the end of training."""

    train_batch_size: int = refused(..., "streams read by one step, over all ranks and slots", ge=1)
    train_micro_batch_size_per_gpu: int | None = announced(
        None, "streams of one micro step on one rank; None is the most that fits one slot", ge=1
    )
    tgt_len: int = refused(..., "tokens of a segment of every stream, read by one pass", ge=1)
    mem_len: int = refused(..., "tokens of memory per layer and stream", ge=0)
    bptt_segments: int = refused(
        1,
        "consecutive segments of every stream that one step predicts, and through all of which "
        "its gradient runs",
        ge=1,
        le=MAX_SIZE,
    )
    tgt_len_schedule: Schedule | None = refused(
        None, "tgt_len by step of the text, as [[0, 64], [2000, 150]]; tgt_len is the largest"
    )
    mem_len_schedule: Schedule | None = refused(
        None, "mem_len by step of the text, as tgt_len_schedule"
    )
    bptt_segments_schedule: Schedule | None = refused(
        None, "bptt_segments by step of the text, as tgt_len_schedule"
    )
    clamp_len: int | None = refused(
        None, "distances beyond this many tokens share a position; None is no clamp", ge=1
    )
    same_length: bool = refused(False, "every query sees exactly mem_len keys")
    max_steps: int = announced(..., "updates after which training ends", ge=1)
    cuda_graph: Literal["auto", "on", "off"] = free(
        "auto",
        "launch a micro step as one CUDA graph: auto is wherever it can be; on a CPU `on`"
        " does the same without a graph",
    )

    tf32: bool = announced(
        False, "round the factors of products in fp32 to 10 bits, on a GPU that can: faster"
    )

    _memory = model_validator(mode="after")(_same_length_has_memory)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.bptt_segments > 1 and self.cuda_graph == "on":
            raise ValueError(
                f"cuda_graph on with bptt_segments {self.bptt_segments}: a step of several "
                "segments is not captured, use --train.cuda-graph auto"
            )
        least = {"tgt_len": 1, "mem_len": int(self.same_length), "bptt_segments": 1}
        for name in least:
            schedule = getattr(self, f"{name}_schedule")
            if schedule is None:
                continue
            wrong = problem(schedule, largest=getattr(self, name), least=least[name])
            if wrong:
                raise ValueError(f"{name}_schedule is to be one that {wrong}")
        return self

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of the run, of which one without schedules has one."""
        fixed = self.tgt_len, self.mem_len, self.bptt_segments
        given = self.tgt_len_schedule, self.mem_len_schedule, self.bptt_segments_schedule
        return stages(*(one or ((0, value),) for one, value in zip(given, fixed, strict=True)))

    @property
    def tokens_per_step(self) -> int:
        """Return the tokens that a step predicts, but for an epoch's last steps."""
        return self.train_batch_size * self.tgt_len * self.bptt_segments


class OptimConfig(Section):
    """The way from a gradient to an update: the rule, and the learning rate's shape."""

    type: Literal["Adam", "AdamW", "Lamb"] = refused(
        "Adam", "the rule; weight decay joins Adam's gradient, but AdamW's and Lamb's update"
    )
    lr: float = announced(..., "peak learning rate", gt=0)
    min_lr: float = announced(0.0, "learning rate at the end", ge=0)
    warmup_steps: int = announced(0, "updates of linear warm-up", ge=0)
    warmup_init_lr: float | None = announced(
        None, "learning rate of the first update of warm-up; None is min_lr", ge=0
    )
    cosine_from: Literal["warmup", "start"] = announced(
        "warmup", "whether the cosine counts from the end of warm-up or from the first update"
    )
    betas: tuple[float, float] = refused((0.9, 0.999), "the moments' decay rates")
    eps: float = refused(1e-8, "denominator offset", gt=0)
    weight_decay: float = refused(0.0, "weight decay coefficient", ge=0)
    gradient_clipping: float = announced(
        0.25, "largest global norm of the gradient; 0 is no clipping", ge=0
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} exceeds lr {self.lr}: lower --optim.min-lr")
        if (self.warmup_init_lr or 0) > self.lr:
            raise ValueError(
                f"warmup_init_lr {self.warmup_init_lr} exceeds lr {self.lr}: "
                f"lower --optim.warmup-init-lr"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} are not in [0, 1)")
        return self


class DataConfig(Section):
    """The order in which the text is read, and where memory ends."""

    epoch_order: Literal["same", "roll", "roll_streams"] = refused(
        "same",
        "where every epoch starts: at the corpus's start, at a seeded offset of the corpus, or "
        "in each stream at a seeded offset of its own",
    )
    memory_reset: Literal["epoch", "document", "segment", "never"] = refused(
        "epoch",
        "where memory is forgotten in training; with `segment` before every segment, so that "
        "nothing is carried",
    )


class ScoringConfig(Section):
    """The lengths with which text is scored: every token but the first, exactly once."""

    tgt_len: int = free(..., "tokens of every row scored by one forward pass", ge=1)
    mem_len: int = free(..., "tokens of memory per layer and row", ge=0)
    clamp_len: int | None = free(
        None, "distances beyond this many tokens share a position; None is no clamp", ge=1
    )
    same_length: bool = free(False, "every query sees exactly mem_len keys")
    batch_size: int = free(8, "rows of text read side by side on one rank", ge=1)
    warm: Literal["exact", "near"] = free(
        "exact", "rows start with the memory of all, or of one layer's reach of, the text before"
    )

    _memory = model_validator(mode="after")(_same_length_has_memory)


class ValidConfig(ScoringConfig):
    """Evaluation during training."""

    interval_steps: int = free(1000, "steps between evaluations; 0 is never", ge=0)
    patience: int | None = free(
        None, "evaluations without a new best after which training ends; None is never", ge=1
    )


class ExperimentConfig(Section):
    """Everything that decides what is trained."""

    source: str | None = free(None, "whose settings these are, for a reader")
    seed: int = refused(1111, "seed of initialisation, dropout, roll and sampling", ge=0)
    model: ModelConfig = refused(..., "the network")
    train: TrainConfig = refused(..., "what one step reads")
    optim: OptimConfig = refused(..., "optimizer and learning rate")
    data: DataConfig = refused(DataConfig(), "how the text is read")
    valid: ValidConfig = refused(..., "evaluation during training")
    eval: ScoringConfig = refused(..., "what `txl eval` does by default")
    sample: SampleConfig = refused(SampleConfig(), "samples during training")
    checkpoint: CheckpointConfig = refused(CheckpointConfig(), "what is saved, and when")
    tracking: TrackingConfig = refused(TrackingConfig(), "where metrics go")
    limits: LimitsConfig = refused(LimitsConfig(), "when a run gives up")
    expect: ExpectConfig = refused(ExpectConfig(), "what a run is held to")

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
