"""Settings of the experiment, frozen and checked; every field has a unit and a meaning.

The DeepSpeed JSON says how to train (precision, ZeRO, offload, a fused optimizer): see
`trainer.config.deepspeed.file`. The kind of each field says whether it may change on resume: see
`trainer.config.fields`.
"""

from typing import Any, Literal, Self

from pydantic import model_validator

from trainer.config.divisors import divisors_near
from trainer.config.fields import Section, announced, free, refused
from trainer.config.lengths import Schedule, Stage, problem, stages
from trainer.config.model_settings import MAX_SIZE, ModelConfig
from trainer.config.run_settings import (
    CheckpointConfig,
    ExpectConfig,
    LimitsConfig,
    SampleConfig,
    TrackingConfig,
)


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

    type: Literal["Adam", "AdamW", "Lamb", "Muon"] = refused(
        "Adam",
        "the rule; weight decay joins Adam's gradient, but the others' update. Muon makes the steps"
        " of matrices in layers orthogonal, and takes AdamW's of all else, such as tables of words"
        " and biases; rates are those of Adam or somewhat higher. In layers is each two-dimensional"
        " `weight` of a module in an `nn.ModuleList`, and those of PyTorch's recurrent networks",
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

    epoch_order: Literal["same", "roll", "roll_streams", "documents"] = refused(
        "same",
        "where every epoch starts: at the corpus's start, at a seeded offset of the corpus, or "
        "in each stream at a seeded offset of its own; with `documents` each epoch reads documents "
        "in a seeded order of its own, and memory ends with each",
    )
    piece_tokens: int | None = refused(
        None,
        "tokens of the pieces into which `documents` cuts longer documents, to order the pieces "
        "as if they were documents; None leaves documents whole",
        ge=1,
    )
    memory_reset: Literal["epoch", "document", "segment", "never"] = refused(
        "epoch",
        "where memory is forgotten in training; with `segment` before every segment, so that "
        "nothing is carried",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epoch_order == "documents" and self.memory_reset == "never":
            raise ValueError(
                "memory_reset never with epoch_order documents, where memory ends with every "
                "document: use --data.memory-reset epoch, or document to evaluate so, too"
            )
        if self.epoch_order != "documents" and self.piece_tokens is not None:
            raise ValueError(
                f"piece_tokens {self.piece_tokens} cuts pieces of epoch_order documents, and not "
                f"of {self.epoch_order}: add --data.epoch-order documents, or leave it out"
            )
        return self


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
    seed: int = refused(1111, "seed of initialisation, dropout, order of text and sampling", ge=0)
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
