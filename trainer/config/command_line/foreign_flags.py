"""Our flags for the flags of the systems that this trainer replaces.

One table makes both the errors for such a command line and the tables of MIGRATING.md.
"""

import re
from collections.abc import Collection, Iterable

from trainer.errors import InputError, did_you_mean

FAIRSEQ, KIMIYOUNG, NVIDIA, HF = "fairseq", "kimiyoung", "NVIDIA", "Hugging Face"
SYSTEMS = (FAIRSEQ, KIMIYOUNG, NVIDIA, HF)

_OLD = (KIMIYOUNG, NVIDIA)
_MICRO = "--train.train-micro-batch-size-per-gpu"
_LAUNCHER = "none here: the launcher says it (deepspeed, torchrun or srun)"
_COSINE = "none here: scheduler.type in the --deepspeed-config file says it; by default cosine"
_RULE = "--optim.type (Adam, AdamW, Lamb or Muon)"
_SCALE = "none here: block fp16 of the --deepspeed-config file, as in zero1_fp16"
_INIT = "none here: weights start normal: --model.init-std, --model.projection-init-std"
_EVAL = "none here: evaluation is a command of its own, `txl eval`"
_PREPARE = "none here: `txl prepare` makes a corpus once, and --data takes it"
_EPOCH = "none here: everything is counted in updates and steps, --train.max-steps"
_LOG = "none here: the console line, metrics.jsonl and logs/ are always written, under --run-dir"
_ACCUMULATE = f"{_MICRO} (accumulation follows from it and --train.train-batch-size)"
_RESUME = "--run-dir (a run goes on from its newest whole checkpoint; --resume-from forks one)"
_WEIGHTS = "--init-from (weights alone, from step 0)"
_NOT = "none here: it is not built"

#: Systems, their flags for one purpose, and our flag for it or the reason why there is none.
TABLE: tuple[tuple[tuple[str, ...], str, str], ...] = (
    # The model
    ((FAIRSEQ,), "--arch -a", "none here: the recipe says it, such as wt103-base"),
    (SYSTEMS, "--n-layer", "--model.n-layer"),
    (SYSTEMS, "--n-head", "--model.n-head"),
    (SYSTEMS, "--d-model", "--model.d-model"),
    (SYSTEMS, "--d-head", "--model.d-head"),
    (SYSTEMS, "--d-inner", "--model.d-inner"),
    ((*_OLD, HF), "--d-embed", "--model.d-embed"),
    (SYSTEMS, "--dropout", "--model.dropout"),
    (SYSTEMS, "--dropatt", "--model.attn-dropout"),
    ((FAIRSEQ, HF), "--cutoffs", "--model.cutoffs 20000 40000 200000"),
    ((*_OLD, HF), "--adaptive", "--model.cutoffs 20000 40000 200000"),
    (SYSTEMS, "--div-val", "--model.div-val"),
    (_OLD, "--not-tied", "--model.tie-embedding False"),
    ((HF,), "--tie-word-embeddings", "--model.tie-embedding"),
    ((HF,), "--proj-share-all-but-first", "--model.tie-projections tails"),
    ((HF,), "--untie-r", "--model.position-biases per_layer"),
    ((*_OLD, HF), "--pre-lnorm", "--model.norm pre"),
    ((*_OLD, HF), "--init-std", "--model.init-std"),
    ((*_OLD, HF), "--proj-init-std", "--model.projection-init-std"),
    (_OLD, "--emb-init --emb-init-range", _INIT),
    ((*_OLD, HF), "--init --init-range", _INIT),
    ((*_OLD, HF), "--attn-type", "none here: only the paper's relative attention, their type 0"),
    ((*_OLD, HF), "--sample-softmax", "none here: the softmax is exact"),
    ((HF,), "--layer-norm-epsilon", "none here: it is the reference's 1e-5"),
    ((HF,), "--vocab-size --eos-token-id", "none here: the corpus of --data has the vocabulary"),
    ((FAIRSEQ,), "--checkpoint-activations", "--model.activation-checkpointing True"),
    ((HF,), "--gradient-checkpointing", "--model.activation-checkpointing True"),
    # Text and memory
    ((FAIRSEQ,), "--tokens-per-sample", "--train.tgt-len (in evaluation --eval.tgt-len)"),
    (_OLD, "--tgt-len", "--train.tgt-len (in evaluation --eval.tgt-len)"),
    ((HF,), "--block-size", "--train.tgt-len"),
    (SYSTEMS, "--mem-len", "--train.mem-len (in evaluation --eval.mem-len)"),
    (SYSTEMS, "--clamp-len", "--train.clamp-len (in evaluation --eval.clamp-len)"),
    (SYSTEMS, "--same-length", "--train.same-length True (in evaluation --eval.same-length True)"),
    (_OLD, "--ext-len", "none here: no recipe uses extended context; memory is --train.mem-len"),
    (_OLD, "--varlen", "none here: shapes never change during training"),
    ((NVIDIA,), "--roll", "--data.epoch-order roll_streams"),
    (_OLD, "--dataset", _PREPARE),
    ((NVIDIA,), "--vocab", _PREPARE),
    ((HF,), "--dataset-name --dataset-config-name --train-file --validation-file "
     "--tokenizer-name --validation-split-percentage --preprocessing-num-workers", _PREPARE),
    ((FAIRSEQ,), "--dataset-impl --train-subset --valid-subset --output-dictionary-size", _PREPARE),
    ((FAIRSEQ,), "--task --user-dir --criterion --sentence-avg",
     "none here: truncated BPTT with mean nats per token is all that is trained"),
    ((FAIRSEQ,), "--sample-break-mode --add-bos-token --self-target --future-target --past-target "
     "--shorten-method --max-target-positions --skip-invalid-size-inputs-valid-test "
     "--required-batch-size-multiple",
     "none here: contiguous streams, every token but the first predicted once per epoch"),
    ((FAIRSEQ,), "--num-workers --data-buffer-size", "none here: the corpus is memory-mapped"),
    ((HF,), "--dataloader-num-workers --dataloader-drop-last --dataloader-pin-memory "
     "--group-by-length --remove-unused-columns", "none here: the corpus is memory-mapped"),
    # Batch and length of training
    ((FAIRSEQ,), "--batch-size --max-sentences", f"{_MICRO} (over all GPUs: "
     "--train.train-batch-size; in evaluation --eval.batch-size)"),
    (_OLD, "--batch-size", "--train.train-batch-size (in evaluation --eval.batch-size)"),
    ((FAIRSEQ,), "--max-tokens --max-tokens-valid",
     "none here: a batch is counted in streams: --train.train-batch-size"),
    ((NVIDIA,), "--local-batch-size", _MICRO),
    ((HF,), "--per-device-train-batch-size", _MICRO),
    ((FAIRSEQ,), "--update-freq", _ACCUMULATE),
    (_OLD, "--batch-chunk", _ACCUMULATE),
    ((HF,), "--gradient-accumulation-steps", _ACCUMULATE),
    (_OLD, "--gpu0-bsz", "none here: every GPU reads as many streams"),
    ((FAIRSEQ,), "--max-update", "--train.max-steps"),
    (_OLD, "--max-step", "--train.max-steps"),
    ((HF,), "--max-steps", "--train.max-steps"),
    ((FAIRSEQ,), "--max-epoch", _EPOCH),
    ((HF,), "--num-train-epochs", _EPOCH),
    ((FAIRSEQ,), "--stop-time-hours", "--limits.time-limit-s"),
    ((HF,), "--data-seed", "--seed"),
    # Optimizer and learning rate
    ((FAIRSEQ,), "--optimizer", _RULE),
    ((KIMIYOUNG, HF), "--optim", _RULE),
    ((NVIDIA,), "--optim", "--optim.type Lamb (for lamb and jitlamb; or Adam, AdamW, Muon)"),
    (_OLD, "--mom", "none here: there is no SGD, and the moments decay by --optim.betas"),
    ((FAIRSEQ, *_OLD), "--lr", "--optim.lr"),
    ((HF,), "--learning-rate", "--optim.lr"),
    ((FAIRSEQ,), "--min-lr", "--optim.min-lr"),
    (_OLD, "--eta-min", "--optim.min-lr"),
    ((FAIRSEQ,), "--warmup-updates", "--optim.warmup-steps"),
    ((KIMIYOUNG,), "--warmup-step", "--optim.warmup-steps (and --optim.cosine-from start: their "
     "cosine counts from the first update)"),
    ((NVIDIA,), "--warmup-step", "--optim.warmup-steps (and --optim.warmup-init-lr 0: theirs "
     "begins there)"),
    ((HF,), "--warmup-steps", "--optim.warmup-steps"),
    ((HF,), "--warmup-ratio", "--optim.warmup-steps"),
    ((FAIRSEQ,), "--warmup-init-lr", "--optim.warmup-init-lr"),
    ((FAIRSEQ,), "--lr-scheduler", _COSINE),
    (_OLD, "--scheduler --decay-rate --lr-min", _COSINE),
    ((HF,), "--lr-scheduler-type", _COSINE),
    ((FAIRSEQ,), "--lr-period-updates --t-mult --lr-shrink",
     "none here: one cosine ends at --train.max-steps"),
    ((NVIDIA,), "--max-step-scheduler", "none here: one cosine ends at --train.max-steps"),
    ((FAIRSEQ,), "--adam-betas", "--optim.betas 0.9 0.999"),
    ((HF,), "--adam-beta1 --adam-beta2", "--optim.betas 0.9 0.999"),
    ((FAIRSEQ,), "--adam-eps", "--optim.eps"),
    ((HF,), "--adam-epsilon", "--optim.eps"),
    ((FAIRSEQ, HF), "--weight-decay", "--optim.type AdamW (theirs is decoupled from the gradient; "
     "--optim.weight-decay says how much)"),
    ((NVIDIA,), "--weight-decay", "--optim.weight-decay"),
    ((FAIRSEQ,), "--clip-norm", "--optim.gradient-clipping"),
    (_OLD, "--clip", "--optim.gradient-clipping"),
    ((HF,), "--max-grad-norm", "--optim.gradient-clipping"),
    (_OLD, "--clip-nonemb", "none here: the norm is over all gradients"),
    # Precision and devices
    (SYSTEMS, "--fp16", "--deepspeed-config zero0_fp16_autocast"),
    ((FAIRSEQ,), "--memory-efficient-fp16", "--deepspeed-config zero1_fp16"),
    ((FAIRSEQ, HF), "--bf16", "--deepspeed-config zero1_bf16"),
    ((FAIRSEQ,), "--memory-efficient-bf16", "--deepspeed-config zero1_bf16"),
    ((NVIDIA,), "--apex-amp-opt-level --amp", "--deepspeed-config zero0_fp16_autocast"),
    ((HF,), "--fp16-opt-level --fp16-backend --half-precision-backend", _SCALE),
    ((FAIRSEQ,), "--fp16-init-scale --fp16-scale-window --fp16-scale-tolerance --min-loss-scale "
     "--threshold-loss-scale --on-cpu-convert-precision", _SCALE),
    (_OLD, "--static-loss-scale --dynamic-loss-scale", _SCALE),
    ((HF,), "--deepspeed", "--deepspeed-config"),
    (_OLD, "--cuda", "--device cuda"),
    ((FAIRSEQ,), "--cpu", "--device cpu"),
    ((HF,), "--use-cpu --no-cuda", "--device cpu"),
    ((HF,), "--torch-compile", _NOT),
    ((HF,), "--tf32", "--train.tf32"),
    ((FAIRSEQ,), "--distributed-world-size --distributed-rank --distributed-port "
     "--distributed-backend --distributed-init-method --distributed-no-spawn --device-id "
     "--nprocs-per-node", _LAUNCHER),
    (_OLD, "--multi-gpu", _LAUNCHER),
    ((NVIDIA,), "--affinity", _LAUNCHER),
    ((FAIRSEQ,), "--ddp-backend --bucket-cap-mb --find-unused-parameters --zero-sharding",
     "--deepspeed-config (its zero_optimization says what the ranks share)"),
    ((HF,), "--ddp-backend --fsdp --sharded-ddp",
     "--deepspeed-config (its zero_optimization says what the ranks share)"),
    # Runs, checkpoints and logs
    ((FAIRSEQ,), "--save-dir", "--run-dir"),
    (_OLD, "--work-dir", "--run-dir"),
    ((HF,), "--output-dir --logging-dir", "--run-dir"),
    ((HF,), "--overwrite-output-dir", "--resume never (with a new --run-dir: none is overwritten)"),
    ((NVIDIA,), "--append-dataset --append-time", "--run-dir (by default the recipe and the time)"),
    (_OLD, "--debug", "--dry-run"),
    ((FAIRSEQ,), "--restore-file --continue-once", _RESUME),
    (_OLD, "--restart", _RESUME),
    ((KIMIYOUNG,), "--restart-dir", _RESUME),
    ((HF,), "--resume-from-checkpoint", _RESUME),
    ((FAIRSEQ,), "--finetune-from-model --reset-optimizer --reset-lr-scheduler "
     "--reset-dataloader --reset-meters", _WEIGHTS),
    ((KIMIYOUNG,), "--finetune-v2 --finetune-v3", _WEIGHTS),
    ((HF,), "--model-name-or-path --config-name", _WEIGHTS),
    ((FAIRSEQ,), "--save-interval-updates", "--checkpoint.interval-steps"),
    ((HF,), "--save-steps", "--checkpoint.interval-steps"),
    ((FAIRSEQ,), "--keep-interval-updates --keep-last-epochs --keep-best-checkpoints",
     "--checkpoint.keep-last"),
    ((NVIDIA,), "--save-all", "--checkpoint.keep-last"),
    ((HF,), "--save-total-limit", "--checkpoint.keep-last"),
    ((FAIRSEQ,), "--save-interval --no-epoch-checkpoints", "--checkpoint.interval-steps "
     "(checkpoints follow steps, not epochs)"),
    ((HF,), "--save-strategy", "--checkpoint.interval-steps"),
    ((FAIRSEQ,), "--no-save --no-last-checkpoints --no-save-optimizer-state",
     "none here: the last checkpoint is always saved whole"),
    ((FAIRSEQ,), "--best-checkpoint-metric --maximize-best-checkpoint-metric",
     "none here: the best checkpoint has the lowest validation loss"),
    ((HF,), "--load-best-model-at-end --metric-for-best-model --greater-is-better",
     "none here: the best checkpoint has the lowest validation loss"),
    ((FAIRSEQ,), "--log-interval", "--tracking.log-interval-steps"),
    (_OLD, "--log-interval", "--tracking.log-interval-steps"),
    ((HF,), "--logging-steps", "--tracking.log-interval-steps"),
    ((FAIRSEQ,), "--log-format --log-file --no-progress-bar", _LOG),
    ((KIMIYOUNG,), "--no-log", _LOG),
    ((NVIDIA,), "--dllog-file --dllogger --txtlog-file --log-all-ranks --no-env", _LOG),
    ((HF,), "--logging-strategy --disable-tqdm --log-level", _LOG),
    ((FAIRSEQ,), "--wandb-project", "--tracking.project"),
    ((FAIRSEQ,), "--tensorboard-logdir", "--tracking.tensorboard True"),
    ((HF,), "--report-to",
     "--tracking.wandb online (and --tracking.tensorboard True, --tracking.trackio True)"),
    ((HF,), "--run-name", "--tracking.name"),
    ((HF,), "--push-to-hub --hub-model-id", _NOT),
    # Evaluation
    ((FAIRSEQ,), "--validate-interval-updates", "--valid.interval-steps"),
    (_OLD, "--eval-interval", "--valid.interval-steps"),
    ((HF,), "--eval-steps", "--valid.interval-steps"),
    ((FAIRSEQ,), "--validate-interval", "--valid.interval-steps"),
    ((HF,), "--eval-strategy --evaluation-strategy", "--valid.interval-steps"),
    ((FAIRSEQ,), "--disable-validation", "--valid.interval-steps 0"),
    (_OLD, "--eval-tgt-len", "--valid.tgt-len (and --valid.mem-len: theirs is mem_len + tgt_len - "
     "eval_tgt_len in validation)"),
    ((FAIRSEQ,), "--batch-size-valid --max-sentences-valid", "--valid.batch-size"),
    ((NVIDIA,), "--eval-batch-size", "--valid.batch-size"),
    ((HF,), "--per-device-eval-batch-size", "--valid.batch-size"),
    ((KIMIYOUNG,), "--max-eval-steps", "none here: a split is always scored whole"),
    ((NVIDIA,), "--eval-max-steps --max-size", "none here: a split is always scored whole"),
    ((FAIRSEQ,), "--patience", "--valid.patience"),
    (_OLD, "--patience", "none here: it steers their dev_perf; --valid.patience ends training"),
    ((FAIRSEQ,), "--model-overrides",
     "--eval.mem-len (and --eval.clamp-len, --eval.same-length True)"),
    ((FAIRSEQ,), "--path --gen-subset --context-window --softmax-batch --results-path", _EVAL),
    (_OLD, "--split", _EVAL),
    ((NVIDIA,), "--target-perplexity", "--expect.ppl (of the best validation, as theirs)"),
    ((NVIDIA,), "--target-throughput", "--expect.tokens-per-s"),
    ((NVIDIA,), "--model --manual --type", _EVAL),
    ((HF,), "--do-train --do-eval --do-predict", _EVAL),
)  # fmt: skip


def canonical(flag: str) -> str:
    """Return `flag` as the table spells it: hyphens for underscores, no ``=value``."""
    return flag.partition("=")[0].replace("_", "-")


def answer(flag: str) -> list[str]:
    """Return lines that say what another system's `flag` is here; empty for an unknown flag."""
    lines = []
    for systems, flags, here in TABLE:
        if canonical(flag) in flags.split():
            ours = f"here {here}" if here.startswith("--") else here
            lines.append(f"{flag} ({', '.join(systems)}): {ours}")
    return lines


def unknown_flags(flags: Iterable[str], *, known: Collection[str]) -> InputError:
    """Return an error that answers all `flags` of a command that are not `known`, a line each."""
    lines = []
    for flag in dict.fromkeys(flag.partition("=")[0] for flag in flags):
        unknown = f"{flag}: no such flag{did_you_mean(canonical(flag), known)}"
        lines += answer(flag) or [unknown]
    return InputError(*lines)


def markdown() -> str:
    """Return the table as Markdown for MIGRATING.md, a part for each system."""
    parts = []
    for system in SYSTEMS:
        rows = [f"**{system}**\n", "| its flag | here |", "|---|---|"]
        for systems, flags, here in TABLE:
            if system in systems:
                theirs = " ".join(f"`{flag}`" for flag in flags.split())
                ours = re.sub(r"--[a-z][\w.-]*", r"`\g<0>`", here.removeprefix("none here: "))
                rows.append(f"| {theirs} | {ours if here.startswith('--') else f'– {ours}'} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"
