"""Settings on which no weight depends: samples, checkpoints, tracking, limits, expectations."""

from typing import Literal

from trainer.config.fields import Section, free


class SampleConfig(Section):
    """Text sampled during training."""

    interval_steps: int = free(0, "steps between samples; 0 is never", ge=0)
    prompt: str = free("", "text that the sample continues")
    n_tokens: int = free(64, "tokens sampled", ge=1)
    temperature: float = free(0.8, "softmax temperature; 0 takes the likeliest", ge=0)


class CheckpointConfig(Section):
    """Times at which the state of the run is saved, and the number of checkpoints kept."""

    interval_steps: int = free(1000, "steps between checkpoints; 0 is only at the end", ge=0)
    keep_last: int = free(2, "newest checkpoints kept, beside the best", ge=1)


class TrackingConfig(Section):
    """Destinations of metrics beside `metrics.jsonl`."""

    log_interval_steps: int = free(25, "steps between records", ge=1)
    wandb: Literal["auto", "online", "offline", "disabled"] = free(
        "auto", "auto is online with a key and offline without; WANDB_MODE overrides"
    )
    project: str = free("txl", "project of wandb and trackio")
    entity: str | None = free(None, "wandb entity")
    name: str | None = free(None, "run name in wandb and trackio; None is the run directory's")
    group: str | None = free(None, "group in wandb and trackio")
    tags: tuple[str, ...] = free((), "wandb tags")
    system_metrics: bool = free(True, "wandb samples the use of processor, memory and GPU")
    peak_tflops: float | None = free(
        None,
        "peak of a device in the precision trained, in 10^12 operations per second, for "
        "throughput/mfu; None is by the GPU's name",
        gt=0,
    )
    tensorboard: bool = free(False, "write TensorBoard events under logs/")
    trackio: bool = free(False, "keep a trackio run, on this machine")


class LimitsConfig(Section):
    """Limits beyond which a run stops by itself."""

    time_limit_s: float | None = free(
        None, "seconds of wall clock after which the run checkpoints and asks to be requeued", gt=0
    )
    nonfinite_steps: int = free(
        5, "non-finite losses in a row after which the run rolls back, once", ge=1
    )
    spike: Literal["off", "warn", "rollback"] = free(
        "warn",
        "what a loss far above those before leads to: a warning at the first, and with rollback, "
        "after spike_steps in a row, the way back to a checkpoint and past the text",
    )
    spike_window_steps: int = free(
        100, "losses that a spike is held against, those of the last steps", ge=10, le=10_000
    )
    spike_mads: float = free(
        10.0, "median absolute deviations above their median from which a loss is a spike", gt=0
    )
    spike_steps: int = free(5, "spikes in a row after which the run rolls back", ge=1)
    distributed_timeout_s: float = free(
        1800.0, "seconds after which a rank that has finished nothing ends the run", gt=0
    )


class ExpectConfig(Section):
    """Results that a run must reach; one that misses them says so by its exit code."""

    ppl: float | None = free(
        None, "largest perplexity per token of the best validation; None is any", ge=1
    )
    tokens_per_s: float | None = free(
        None, "fewest tokens per second in steps, over the whole run; None is any", gt=0
    )
