"""`txl eval`: score a split with a checkpoint, once per memory length, and save each result."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor

from trainer.budget.shortage import explained
from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Corpus, Split, open_corpus
from trainer.distributed import World, on_main
from trainer.errors import InputError
from trainer.inference.by_position import loss_by_position
from trainer.inference.eval_options import EvalOptions
from trainer.inference.filing import (
    described_result,
    file_evaluation,
    keep_tokens,
    print_table,
)
from trainer.inference.loading import load_source, open_corpus_of
from trainer.inference.refusals import refuse_misuse, warn_of_other_segments
from trainer.inference.score import Score, score
from trainer.inference.scored_tokens import (
    Row,
    gathered,
    sum_of,
)
from trainer.inference.settings import cuts_documents, scoring_of, situation
from trainer.inference.source import read_together
from trainer.inference.trained import TrainedModel
from trainer.protocol import reach_of
from trainer.track.console.progress import progress
from trainer.track.run_files.by_position import ByPosition
from trainer.track.run_files.results import EvalResult


def evaluate_run(options: EvalOptions, world: World) -> list[EvalResult]:
    """Do what `evaluate` does, and print a table on rank 0. Collective."""
    results = evaluate(options, world)
    if world.is_main:
        print_table(results, options.run_dir)
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
    on_main(lambda: refuse_misuse(options, scorings, trained), world)
    if world.is_main:
        warn_of_other_segments(trained, scorings[0].tgt_len)
    results = []
    for scoring in scorings:
        label = f"scoring {split.name}, mem_len {scoring.mem_len}"
        with (
            explained(world, partial(situation, scoring, vocabulary_size=trained.vocabulary.size)),
            progress(label, total=1, shows=world.is_main) as on_share,
        ):
            result, rows = _score(scoring, split, trained, options, world, on_share)
        described = described_result(result, scoring, split, corpus, trained, options, world)
        if options.wants_positions:
            curve = _by_position(scoring, split, trained, options, world)
            described = described.model_copy(update={"by_position": curve})
        results.append(described)
        if world.is_main:
            file_evaluation(options.run_dir, results[-1])
        if rows:
            on_main(partial(keep_tokens, options, results[-1], rows, split, corpus, trained), world)
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
        cut_documents=cuts_documents(trained.experiment, as_fairseq=options.as_fairseq),
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
