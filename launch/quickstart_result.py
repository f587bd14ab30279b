"""Compare the quick start's promises with its results: ``python quickstart_result.py RUN``."""

import sys
from pathlib import Path

import numpy as np

from trainer import read_metrics
from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Corpus
from trainer.distributed import choose_device
from trainer.errors import Exit, InputError
from trainer.inference.loading import open_corpus_of, open_trained
from trainer.inference.trained import TrainedModel
from trainer.outside import printable
from trainer.shell import command
from trainer.track.run_files.results import EvalResult, measure_of, newest, read_results


def main(run_dir: Path) -> int:
    """Print both comparisons; return 1 if the model learnt nothing, or nothing from memory."""
    device = choose_device("auto", local_rank=0)
    trained = open_trained(run_dir, which="best", precision=None, device=device)
    corpus = open_corpus_of(run_dir)
    unigram = entropy(np.bincount(corpus.splits["train"].tokens))
    valid = read_metrics(run_dir, kind="valid")[-1]["valid/loss"]
    scoring = trained.experiment.eval
    no_memory = scoring.model_copy(update={"mem_len": 0, "same_length": False})
    without = result_of(run_dir, trained, corpus, no_memory)
    remembering = result_of(run_dir, trained, corpus, scoring)
    gain = (without.loss or 0.0) - (remembering.loss or 0.0)
    print(f"valid loss {valid:.3f} nats per token; a model that only counts tokens: {unigram:.3f}")
    print(f"memory gains {gain:.3f} nats per token on the test split")
    print(f"({remembering.checkpoint}, {remembering})")
    return int(valid >= unigram or gain <= 0)


def result_of(
    run_dir: Path, trained: TrainedModel, corpus: Corpus, scoring: ScoringConfig
) -> EvalResult:
    """Return the run's result of this checkpoint on this corpus's test split, scored like this.

    Raises:
        InputError: there is no such result.
    """
    of = measure_of(corpus, corpus.splits["test"], scoring, precision=trained.precision)
    result = newest(
        read_results(run_dir).results,
        of,
        checkpoint=trained.path.name,
        weights=trained.weights_hash,
    )
    if result is None or result.loss is None:
        raise InputError(
            f"{run_dir} has no result of {trained.path.name} on {of}: run "
            f"{command('txl', 'eval', run_dir, '--no-memory')}"
        )
    return result


def entropy(counts: np.ndarray) -> float:
    """Return the entropy in nats of the distribution given by `counts`."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except InputError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(Exit.BAD_INPUT)
