"""`txl eval`: score a split with a checkpoint, once per memory length, and save each result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

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
from trainer.inference.improving.tuning import beginning, tuned
from trainer.inference.improving.ways import Way, improved_way, plain_way
from trainer.inference.loading import load_source, open_corpus_of
from trainer.inference.refusals import refuse_dynamic, refuse_misuse, warn_of_other_segments
from trainer.inference.score import Score, score
from trainer.inference.scored_tokens import (
    Row,
    gathered,
    sum_of,
)
from trainer.inference.settings import cuts_documents, scoring_of, situation
from trainer.inference.source import read_together
from trainer.inference.trained import TrainedModel
from trainer.track.console.progress import progress
from trainer.track.method import Method
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
        NonFiniteError: dynamic evaluation made weights that are not finite.
    """
    asked_mem_lens = options.mem_lens  # a bad list is refused before anything is read
    refuse_dynamic(options, world_size=world.world_size)
    needs_moments = options.dynamic == "rms"
    source = read_together(options.run_dir, options.checkpoint, world, second_moments=needs_moments)
    precision = options.precision if options.dynamic is None else "fp32"
    trained = load_source(
        source, precision=precision, device=world.device, trust=options.trust_code
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
        method = _method(scoring, corpus, trained, options, world)
        label = f"scoring {split.name}, mem_len {scoring.mem_len}"
        with _shown(label, scoring, trained, world) as on_share:
            result, rows = _score(scoring, split, method, trained, options, world, on_share)
        described = described_result(
            result, scoring, split, corpus, trained, options, world, method
        )
        if options.wants_positions:
            curve = _by_position(scoring, split, trained, options, world)
            described = described.model_copy(update={"by_position": curve})
        results.append(described)
        if world.is_main:
            file_evaluation(options.run_dir, results[-1])
        if rows:
            on_main(partial(keep_tokens, options, results[-1], rows, split, corpus, trained), world)
    return results


@contextmanager
def _shown(
    label: str, scoring: ScoringConfig, trained: TrainedModel, world: World
) -> Iterator[Callable[[float], None]]:
    """Show the progress of reading, which is told to what is yielded, and explain a shortage."""
    with (
        explained(world, partial(situation, scoring, vocabulary_size=trained.vocabulary.size)),
        progress(label, total=1, shows=world.is_main) as on_share,
    ):
        yield on_share


def _method(
    scoring: ScoringConfig,
    corpus: Corpus,
    trained: TrainedModel,
    options: EvalOptions,
    world: World,
) -> Method | None:
    """Return how reading improves, tuned on valid as far as it was not given. Collective."""
    if not options.improves:
        return None
    if not options.lacks_settings:
        return options.given
    valid = beginning(_split(corpus, "valid", trained), options.tune_tokens)

    def score_way(way: Way, what: str) -> Score:
        """Score valid in a way."""
        with _shown(f"tuning on valid: {what}", scoring, trained, world) as on_share:
            return _scored(scoring, valid, way, trained, options, world, on_share)

    how: dict[str, Any] = {"tgt_len": scoring.tgt_len, "score_way": score_way, "world": world}
    return tuned(options, trained, valid, **how)


def _score(
    scoring: ScoringConfig,
    split: Split,
    method: Method | None,
    trained: TrainedModel,
    options: EvalOptions,
    world: World,
    on_share: Callable[[float], None],
) -> tuple[Score, list[Row]]:
    """Return the score of a split, and its tokens if they are asked for. Collective.

    With its tokens, the score is exactly the sum of their nats.
    """
    if method is None:
        way = plain_way(trained, as_fairseq=options.as_fairseq)
    else:
        way = improved_way(trained, method, tgt_len=scoring.tgt_len)
    scored: list[tuple[int, Tensor]] = []
    wants_tokens = options.per_token or options.per_token_text is not None
    on_tokens = (lambda *row: scored.append(row)) if wants_tokens else None
    result = _scored(scoring, split, way, trained, options, world, on_share, on_tokens)
    if not wants_tokens:
        return result, []
    rows = gathered(scored, world)
    loss_sum = sum_of(rows)
    return replace(result, loss_sum=loss_sum, loss=loss_sum / result.n_tokens), rows


def _scored(
    scoring: ScoringConfig,
    split: Split,
    way: Way,
    trained: TrainedModel,
    options: EvalOptions,
    world: World,
    on_share: Callable[[float], None],
    on_tokens: Callable[[int, Tensor], None] | None = None,
) -> Score:
    """Return the score of a split that is read in a way. Collective."""
    result = score(
        way.forward,
        split,
        scoring=scoring,
        world=world,
        first_memory=way.first_memory,
        reach=way.reach,
        cutoffs=trained.experiment.model.cutoffs,
        cut_documents=cuts_documents(trained.experiment, as_fairseq=options.as_fairseq),
        as_fairseq=options.as_fairseq,
        keeps_segments=way.keeps_segments,
        on_share=on_share,
        on_tokens=on_tokens,
    )
    assert result is not None, "nothing asks this scoring to stop"
    return result


def _by_position(
    scoring: ScoringConfig, split: Split, trained: TrainedModel, options: EvalOptions, world: World
) -> ByPosition:
    """Return the loss by position. Collective."""
    label = f"by position, mem_len {scoring.mem_len}"
    with _shown(label, scoring, trained, world) as on_share:
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
        batch_size=options.batch_size if options.dynamic is None else 1,
    )
