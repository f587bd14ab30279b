"""Refusals and warnings of `txl eval`, before any time is spent on scoring."""

import logging
import os

from trainer.config.factory import named
from trainer.config.recipe import ScoringConfig
from trainer.errors import InputError
from trainer.inference.eval_options import EvalOptions
from trainer.inference.texts.reading import no_hidden_states
from trainer.inference.trained import TrainedModel
from trainer.protocol import reads_whole_segments

log = logging.getLogger(__name__)


def refuse_misuse(
    options: EvalOptions, scorings: list[ScoringConfig], trained: TrainedModel
) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: they do not.
    """
    builder = trained.experiment.model.builder
    if options.as_fairseq and builder is not None:
        raise InputError(f"--as-fairseq is for Transformer-XL, and the run has {named(builder)}")
    if options.as_fairseq and options.wants_positions:
        raise InputError("--as-fairseq and --by-position: give one of them")
    if options.improves:
        _refuse_improving(options, scorings, trained)
    if options.tune_tokens is not None and (options.tune_tokens < 2 or not options.lacks_settings):
        raise InputError(
            f"--tune-tokens {options.tune_tokens} is for settings of --cache or --dynamic that are "
            "tuned, and from 2 up"
        )
    if options.by_position_tokens is not None and options.by_position_tokens < 2:
        raise InputError(
            f"--by-position-tokens {options.by_position_tokens}: the first token of a window is "
            "not predicted; give 2 up"
        )
    for scoring in scorings if options.as_fairseq else ():
        if scoring.warm == "near":
            raise InputError("--as-fairseq reads the text as one long pass: use --warm exact")
        if scoring.tgt_len == 1:
            raise InputError("--as-fairseq scores one token less than tgt_len: use --tgt-len 2 up")
    path = options.per_token_text
    if path is None:
        return
    if len(scorings) > 1:
        raise InputError(
            f"--per-token-text {path} holds one result: give one --mem-len, no --no-memory"
        )
    if (path.exists() and not path.is_file()) or not os.access(path.parent, os.W_OK):
        raise InputError(f"--per-token-text {path} is no file that can be written: name another")


def _refuse_improving(
    options: EvalOptions, scorings: list[ScoringConfig], trained: TrainedModel
) -> None:
    """Refuse what does not go with a cache or dynamic evaluation."""
    flag = "--cache" if options.cache else "--dynamic"
    if options.as_fairseq or options.wants_positions:
        other = "--as-fairseq" if options.as_fairseq else "--by-position"
        raise InputError(f"{other} and {flag}: give one of them")
    if any(scoring.warm == "near" for scoring in scorings):
        raise InputError(f"{flag} improves by what comes before: use --warm exact")
    if options.cache and not hasattr(trained.module, "hidden"):
        raise InputError(f"--cache: {no_hidden_states(trained.module)}")
    if options.lacks_settings and options.split == "valid":
        raise InputError(
            f"{flag} is tuned on valid, which cannot be scored then: give all its settings, or "
            "another --split"
        )


def refuse_dynamic(options: EvalOptions, *, world_size: int) -> None:
    """Refuse more than one row, or less than fp32, with dynamic evaluation.

    Raises:
        InputError: what was read first changes what comes after it.
    """
    if options.dynamic is None:
        return
    if world_size > 1:
        raise InputError(f"--dynamic reads one row, and there are {world_size} ranks: use one")
    if options.batch_size not in (None, 1):
        raise InputError(f"--dynamic reads one row: leave --batch-size {options.batch_size} out")
    if options.precision not in (None, "fp32"):
        raise InputError(f"--dynamic learns in fp32: leave --precision {options.precision} out")


def warn_of_other_segments(trained: TrainedModel, tgt_len: int) -> None:
    """Say if a model that reads whole segments is scored with others than it was trained with."""
    trained_len = trained.experiment.train.tgt_len
    if reads_whole_segments(trained.module) and tgt_len != trained_len:
        log.warning(
            "this model's loss depends on the length of segments: it was trained with tgt_len %d "
            "and is scored with %d",
            trained_len,
            tgt_len,
        )
