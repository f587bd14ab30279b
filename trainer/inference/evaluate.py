"""`txl eval`: score a split with a checkpoint, once per memory length, and save each result."""

import datetime
import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from trainer.budget.shortage import explained
from trainer.config.factory import named
from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Corpus, Split, open_corpus
from trainer.distributed import World, on_main
from trainer.errors import InputError
from trainer.inference.by_position import loss_by_position
from trainer.inference.eval_options import EvalOptions
from trainer.inference.loading import load_source, open_corpus_of
from trainer.inference.score import Score, score
from trainer.inference.scored_tokens import (
    Row,
    gathered,
    sum_of,
    token_table,
    train_counts,
    write_text,
)
from trainer.inference.settings import scoring_of, situation
from trainer.inference.source import read_together
from trainer.inference.trained import TrainedModel
from trainer.outside import printable
from trainer.protocol import reach_of, reads_whole_segments
from trainer.track.console.progress import progress
from trainer.track.measure import RULES, Rule
from trainer.track.run_files.by_position import ByPosition, position_rows
from trainer.track.run_files.results import FOLDER, EvalResult, file_result, measure_of, table_rows
from trainer.track.run_files.token_files import file_tokens
from trainer.track.tables import shown, text_table
from trainer.track.throughput import SCORING, tokens_per_s
from trainer.wording import counted

log = logging.getLogger(__name__)


def evaluate_run(options: EvalOptions, world: World) -> list[EvalResult]:
    """Do what `evaluate` does, and print a table on rank 0. Collective."""
    results = evaluate(options, world)
    if world.is_main:
        _print_table(results, options.run_dir)
    return results


def evaluate(options: EvalOptions, world: World) -> list[EvalResult]:
    """Score, and save the results in the run's directory. Collective.

    Raises:
        InputError: the run, checkpoint, corpus, split or settings cannot be used.
    """
    asked_mem_lens = options.mem_lens  # a bad list is refused before anything is read
    source = read_together(options.run_dir, options.checkpoint, world)
    trained = load_source(
        source, precision=options.precision, device=world.device, trust=options.trust_code
    )
    corpus = open_corpus(options.data) if options.data else open_corpus_of(options.run_dir)
    split = _split(corpus, options.split, trained)
    mem_lens = asked_mem_lens or (trained.experiment.eval.mem_len,)
    if options.no_memory and 0 not in mem_lens:
        mem_lens = (0, *mem_lens)
    scorings = [_scoring(options, trained, mem_len) for mem_len in mem_lens]
    on_main(lambda: _refuse_misuse(options, scorings, trained), world)
    if world.is_main:
        _warn_of_other_segments(trained, scorings[0].tgt_len)
    results = []
    for scoring in scorings:
        label = f"scoring {split.name}, mem_len {scoring.mem_len}"
        with (
            explained(world, partial(situation, scoring, vocabulary_size=trained.vocabulary.size)),
            progress(label, total=1, shows=world.is_main) as on_share,
        ):
            result, rows = _score(scoring, split, trained, options, world, on_share)
        described = _describe(result, scoring, split, corpus, trained, options, world)
        if options.wants_positions:
            curve = _by_position(scoring, split, trained, options, world)
            described = described.model_copy(update={"by_position": curve})
        results.append(described)
        if world.is_main:
            _file(options.run_dir, results[-1])
        if rows:
            on_main(
                partial(_keep_tokens, options, results[-1], rows, split, corpus, trained), world
            )
    return results


def _score(
    scoring: ScoringConfig,
    split: Split,
    trained: TrainedModel,
    options: EvalOptions,
    world: World,
    on_share: Callable[[float], None],
) -> tuple[Score, list[Row]]:
    """Return the score of a split, and its tokens if they are asked for. Collective.

    With its tokens, the score is exactly the sum of their nats.
    """
    scored: list[tuple[int, Tensor]] = []
    wants_tokens = options.per_token or options.per_token_text is not None
    result = score(
        trained,
        split,
        scoring=scoring,
        world=world,
        first_memory=trained.zero_memory if options.as_fairseq else trained.reading_memory,
        reach=reach_of(trained.module, n_layer=trained.experiment.model.n_layer),
        cutoffs=trained.experiment.model.cutoffs,
        cut_documents=_cuts_documents(options, trained),
        as_fairseq=options.as_fairseq,
        on_share=on_share,
        on_tokens=(lambda *row: scored.append(row)) if wants_tokens else None,
    )
    assert result is not None, "nothing asks this scoring to stop"
    if not wants_tokens:
        return result, []
    rows = gathered(scored, world)
    loss_sum = sum_of(rows)
    return replace(result, loss_sum=loss_sum, loss=loss_sum / result.n_tokens), rows


def _by_position(
    scoring: ScoringConfig, split: Split, trained: TrainedModel, options: EvalOptions, world: World
) -> ByPosition:
    """Return the loss by position. Collective."""
    label = f"by position, mem_len {scoring.mem_len}"
    with (
        explained(world, partial(situation, scoring, vocabulary_size=trained.vocabulary.size)),
        progress(label, total=1, shows=world.is_main) as on_share,
    ):
        return loss_by_position(
            trained,
            split,
            scoring=scoring,
            n_tokens=options.by_position_tokens,
            world=world,
            on_share=on_share,
        )


def _refuse_misuse(
    options: EvalOptions, scorings: list[ScoringConfig], trained: TrainedModel
) -> None:
    """Refuse options that do not go together, before any time is spent on scoring."""
    builder = trained.experiment.model.builder
    if options.as_fairseq and builder is not None:
        raise InputError(f"--as-fairseq is for Transformer-XL, and the run has {named(builder)}")
    if options.as_fairseq and options.wants_positions:
        raise InputError("--as-fairseq and --by-position: give one of them")
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


def _warn_of_other_segments(trained: TrainedModel, tgt_len: int) -> None:
    """Say if a model that reads whole segments is scored with others than it was trained with."""
    trained_len = trained.experiment.train.tgt_len
    if reads_whole_segments(trained.module) and tgt_len != trained_len:
        log.warning(
            "this model's loss depends on the length of segments: it was trained with tgt_len %d "
            "and is scored with %d",
            trained_len,
            tgt_len,
        )


def _split(corpus: Corpus, name: str, trained: TrainedModel) -> Split:
    if corpus.vocabulary.hash != trained.vocabulary.hash:
        raise InputError(
            f"{corpus.path} has another vocabulary than {trained.path}: prepare it with --vocab of "
            f"the run's directory"
        )
    if name not in corpus.splits:
        raise InputError(f"{corpus.path} has no split {name!r}: it has {', '.join(corpus.splits)}")
    return corpus.splits[name]


def _scoring(options: EvalOptions, trained: TrainedModel, mem_len: int) -> ScoringConfig:
    return scoring_of(
        trained.experiment,
        tgt_len=options.tgt_len,
        mem_len=mem_len,
        clamp_len=options.clamp_len,
        warm=options.warm,
        same_length=options.same_length,
        batch_size=options.batch_size,
    )


def _cuts_documents(options: EvalOptions, trained: TrainedModel) -> bool:
    return trained.experiment.data.memory_reset == "document" and not options.as_fairseq


def _describe(
    result: Score,
    scoring: ScoringConfig,
    split: Split,
    corpus: Corpus,
    trained: TrainedModel,
    options: EvalOptions,
    world: World,
) -> EvalResult:
    """Return a score as the result that is filed."""
    rule: Rule = "as fairseq" if options.as_fairseq else "every token"
    of = measure_of(corpus, split, scoring, precision=trained.precision, rule=rule)
    metrics = result.metrics(split)
    infinite = [name for name, value in metrics.items() if value and not math.isfinite(value)]
    values = {
        **of.model_dump(),
        **metrics,
        "absent": {**split.absent, **dict.fromkeys(infinite, "no finite number")},
        "loss_base2": result.loss / math.log(2) if options.as_fairseq else None,
        "n_tokens": result.n_tokens,
        "seconds": result.seconds,
        "tokens_per_s": tokens_per_s(result.n_tokens, result.seconds),
        "counting": f"{RULES[rule]} ({result.n_tokens:,} of {split.n_tokens:,} tokens)",
        "world_size": world.world_size,
        "checkpoint": trained.path.name,
        "checkpoint_hash": trained.weights_hash,
        "step": trained.saved["train"]["step"],
        "corpus_path": str(corpus.path.resolve()),
        "vocabulary_hash": corpus.vocabulary.hash,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return EvalResult.model_validate(values)


def _file(run_dir: Path, result: EvalResult) -> None:
    try:
        log.info("%s", file_result(run_dir, result))
    except OSError as error:
        folder = run_dir / FOLDER
        log.warning("%s: not written, the result only printed: %s", folder, error.strerror)


def _keep_tokens(
    options: EvalOptions,
    result: EvalResult,
    rows: list[Row],
    split: Split,
    corpus: Corpus,
    trained: TrainedModel,
) -> None:
    """File the scored tokens beside their result, and write them as text, as far as asked."""
    if options.per_token_text is not None:
        write_text(options.per_token_text, rows, split, corpus.vocabulary)
    if not options.per_token:
        return
    counts = train_counts(options.run_dir, corpus)
    cut_documents = _cuts_documents(options, trained)
    tokens = token_table(rows, split, counts=counts, cut_documents=cut_documents)
    try:
        log.info("%s", file_tokens(options.run_dir, result, tokens))
    except OSError as error:
        where = options.run_dir / FOLDER
        raise InputError(f"--per-token: {where} cannot be written: {error.strerror}") from None


def _print_table(results: list[EvalResult], run: Path) -> None:
    """Print what was scored and how, then a row per result, then the gain from memory."""
    first = results[0]
    rows, notes = table_rows(results)
    print(f"{first.source}, {counted(first.world_size or 1, 'rank')}, {printable(run)}")
    print(f"counted: {first.counting}")
    print(f"tokens/s: {SCORING}\n")
    print(text_table(rows))
    for number, note in enumerate(notes, start=1):
        print(f"[{number}] {printable(note)}")
    for result in results:
        if result.loss_base2 is not None:
            ppl = shown(result.ppl, ".2f")
            print(f"fairseq's Loss (base 2): {result.loss_base2:.4f}, Perplexity: {ppl}")
    curves = [result.by_position for result in results if result.by_position is not None]
    if curves:
        names = [f"mem_len {result.settings.mem_len}" for result in results]
        print(f"\nloss by position, {curves[0].words}, each from empty memory:")
        print(text_table(position_rows(curves, names)))
    without = next((r.loss for r in results if r.settings.mem_len == 0), None)
    for result in results:
        if without is not None and result.loss is not None and result.settings.mem_len:
            gain = without - result.loss
            print(f"memory of {result.settings.mem_len} gains {gain:.4f} nats per token")
