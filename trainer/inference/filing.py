"""The results of `txl eval`: described, filed with their tokens, and printed."""

import datetime
import logging
import math
from pathlib import Path

from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Corpus, Split
from trainer.distributed import World
from trainer.errors import InputError
from trainer.inference.eval_options import EvalOptions
from trainer.inference.score import Score
from trainer.inference.scored_tokens import Row, token_table, train_counts, write_text
from trainer.inference.settings import cuts_documents
from trainer.inference.trained import TrainedModel
from trainer.outside import printable
from trainer.track.measure import RULES, Rule
from trainer.track.method import Method
from trainer.track.run_files.by_position import position_rows
from trainer.track.run_files.results import FOLDER, EvalResult, file_result, measure_of, table_rows
from trainer.track.run_files.token_files import file_tokens
from trainer.track.tables import shown, text_table
from trainer.track.throughput import SCORING, tokens_per_s
from trainer.wording import counted

log = logging.getLogger(__name__)


def described_result(
    result: Score,
    scoring: ScoringConfig,
    split: Split,
    corpus: Corpus,
    trained: TrainedModel,
    options: EvalOptions,
    world: World,
    method: Method | None,
) -> EvalResult:
    """Return a score as the result that is filed."""
    rule: Rule = "as fairseq" if options.as_fairseq else "every token"
    of = measure_of(corpus, split, scoring, precision=trained.precision, rule=rule, method=method)
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


def file_evaluation(run_dir: Path, result: EvalResult) -> None:
    """File a result; warn if that cannot be done."""
    try:
        log.info("%s", file_result(run_dir, result))
    except OSError as error:
        folder = run_dir / FOLDER
        log.warning("%s: not written, the result only printed: %s", folder, error.strerror)


def keep_tokens(
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
    cut_documents = cuts_documents(trained.experiment, as_fairseq=options.as_fairseq)
    tokens = token_table(rows, split, counts=counts, cut_documents=cut_documents)
    try:
        log.info("%s", file_tokens(options.run_dir, result, tokens))
    except OSError as error:
        where = options.run_dir / FOLDER
        raise InputError(f"--per-token: {where} cannot be written: {error.strerror}") from None


def print_table(results: list[EvalResult], run: Path) -> None:
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
