"""The meaning of every number and event that a run records, for `txl reference`.

A test compares these names with those that the code gives, and with what a run really records.
"""

from typing import NamedTuple

from trainer.track.record.records import RecordKind
from trainer.track.throughput import MFU, TRAINING


class Meaning(NamedTuple):
    """The meaning of a value; `unit` is empty where it has none."""

    unit: str
    text: str


#: The values that every record has.
EVERY_RECORD: dict[str, Meaning] = {
    "schema": Meaning("", "version of the record's format"),
    "kind": Meaning("", "train, valid, sample or event"),
    "attempt": Meaning(
        "starts", "of the run so far, a rollback included; of a step done again the last one counts"
    ),
    "step": Meaning("steps", "attempts to update the weights so far"),
    "update": Meaning("updates", "steps that did; learning rate and max_steps go by them"),
    "tokens": Meaning("tokens", "trained on so far, over all ranks"),
    "time": Meaning("s", "unix time of writing"),
}

_LOSS = "nats per token"

#: The values of records by kind; those of events are in `EVENTS`.
METRICS: dict[RecordKind, dict[str, Meaning]] = {
    "train": {
        "train/loss": Meaning(_LOSS, "mean over all tokens since the previous record"),
        "train/ppl": Meaning("", "perplexity per token: e to the power of train/loss"),
        "train/epoch": Meaning("epochs", "passes over the train split so far"),
        "optim/lr": Meaning("", "learning rate of the step"),
        "optim/grad_norm": Meaning(
            "", "global norm of the step's gradient before clipping; null if not finite"
        ),
        "optim/loss_scale": Meaning("", "factor of the loss in fp16; 1 in other precisions"),
        "optim/skipped_steps": Meaning(
            "steps", "so far that left the weights as they were, since gradients were not finite"
        ),
        "throughput/tokens_per_s": Meaning("tokens/s", f"{TRAINING}, since the previous record"),
        "throughput/tokens_per_s_per_device": Meaning(
            "tokens/s", "the same divided by the ranks, each of which has one device"
        ),
        "throughput/mfu": Meaning("", MFU),
        "memory/peak_gib": Meaning(
            "GiB", "most memory that rank 0 held so far: by tensors on a GPU, else by its process"
        ),
    },
    "valid": {
        "valid/loss": Meaning(_LOSS, "mean over the valid split: every token but the first"),
        "valid/ppl": Meaning("", "perplexity per token: e to the power of valid/loss"),
        "valid/ppl_word": Meaning("", "perplexity per word and line end of the text"),
        "valid/bpc": Meaning("bits", "per character of the text"),
        "valid/best_loss": Meaning(_LOSS, "least valid/loss so far that measures the same"),
        "of": Meaning("", "what is measured: corpus, split, lengths, precision and counting rule"),
    },
    "sample": {"sample/text": Meaning("", "the prompt and what the model wrote after it")},
}

#: Names that wandb and TensorBoard have beside those of `METRICS`.
TRACKED: dict[str, Meaning] = {
    "train/extra/NAME": Meaning(
        "per token", "a model's own extra loss NAME, also in `metrics.jsonl`: mean as train/loss is"
    ),
    "train/step": Meaning("steps", "wandb: `step` of the record, the axis of all curves"),
    "train/update": Meaning("updates", "wandb: `update` of the record"),
    "train/tokens": Meaning("tokens", "wandb: `tokens` of the record"),
    "sample/texts": Meaning("", "wandb: table of all samples"),
    "event/NAME": Meaning("", "wandb: the event NAME and its details as text"),
    "eval/TEXT/MANNER/loss": Meaning(
        _LOSS, "wandb: a result of `txl eval`; likewise ppl, ppl_word, bpc and of"
    ),
    "valid/of": Meaning("", "TensorBoard: what validations measure, as text"),
}

#: The values of `result` in `status.json`, beside metrics.
RESULT: dict[str, Meaning] = {
    "corpus": Meaning("", "name of the corpus's folder"),
    "corpus_hash": Meaning("", "hash of its vocabulary and of every split"),
    "precision": Meaning("", "fp32, bf16, fp16, bf16_autocast or fp16_autocast"),
    "train/loss": Meaning(_LOSS, "of the last record"),
    "valid/best_loss": Meaning(_LOSS, "of the best validation, whose measure is in best_of"),
    "valid/best_step": Meaning("steps", "of the best validation"),
    "tokens": Meaning("tokens", "trained on, over all ranks"),
    "throughput/tokens_per_s": Meaning("tokens/s", f"{TRAINING}, over all attempts"),
    "throughput/tokens_per_s_per_device": Meaning("tokens/s", "the same divided by the ranks"),
}


class EventMeaning(NamedTuple):
    """The occasion on which an event is recorded, and the meaning of its details."""

    when: str
    details: dict[str, str]


_DATA = {
    "data_step": "position in the text",
    "parent": "run or checkpoint whose weights it began with",
    "corpus_name": "name of the corpus's folder",
    "corpus_hash": "hash of the corpus",
    "precision": "of the arithmetic",
}
_WHERE = {
    "bad_step": "step with a loss that was not finite",
    "ranks": "its ranks",
    "streams": "its streams",
}
_USUAL = {
    "loss": "of the step, over all ranks",
    "median": "of the losses before",
    "limit": "the largest loss that is usual after them",
}

EVENTS: dict[str, EventMeaning] = {
    "start": EventMeaning("training begins", {"parameters": "of the model", **_DATA}),
    "resume": EventMeaning(
        "training goes on from a checkpoint",
        {
            "path": "the checkpoint",
            "skipped": "newer checkpoints that are not whole or not trusted, and why",
            "changes": "settings that differ from before",
            **_DATA,
        },
    ),
    "checkpoint": EventMeaning("a checkpoint is written, some steps later", {"path": "its folder"}),
    "checkpoint_failed": EventMeaning("a checkpoint could not be written", {"error": "why"}),
    "skip": EventMeaning(
        "a step left the weights as they were, since its gradients were not finite",
        {"loss_scale": "from now on"},
    ),
    "spike": EventMeaning(
        "the loss of a step, the first of steps in a row, is above what is usual by "
        "`limits.spike_window_steps` and `limits.spike_mads`",
        {"bad_step": "the step, two before the event's", **_USUAL},
    ),
    "nonfinite": EventMeaning(
        "a loss was not finite", {"in_a_row": "steps in a row so far", **_WHERE}
    ),
    "rollback": EventMeaning(
        "too many such steps in a row, or spikes: training goes on from a checkpoint, after their "
        "text",
        {
            "path": "the checkpoint",
            "data_step": "position in the text",
            "cause": "nonfinite or spike",
            **_WHERE,
            **_USUAL,
        },
    ),
    "profile": EventMeaning(
        "a trace is written", {"path": "its file", "opens_in": "page that shows it"}
    ),
    "expectation": EventMeaning("targets of --expect are missed", {"missed": "which"}),
    "untracked": EventMeaning("wandb is given up", {"reason": "why"}),
    "stop": EventMeaning("an attempt ends", {"reason": "why; done where it reached its end"}),
}
