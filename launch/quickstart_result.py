"""What the quick start promises, against what came out: ``python quickstart_result.py RUN``."""

import json
import sys
from pathlib import Path

import numpy as np

from trainer import read_metrics
from trainer.data.corpus import open_corpus
from trainer.inference import corpus_of


def main(run_dir: Path) -> int:
    """Print both comparisons; returns 1 if the model learnt nothing, or nothing from memory."""
    corpus = open_corpus(corpus_of(run_dir))
    unigram = entropy(np.bincount(corpus.splits["train"].tokens))
    valid = read_metrics(run_dir, kind="valid")[-1]["valid/loss"]
    evals = [json.loads(path.read_text()) for path in (run_dir / "evals").glob("test-*.json")]
    step = max(result["step"] for result in evals)  # of the checkpoint scored last
    losses = {e["settings"]["mem_len"]: e["loss"] for e in evals if e["step"] == step}
    gain = losses.pop(0) - min(losses.values())
    print(f"valid loss {valid:.3f} nats per token; a model that only counts tokens: {unigram:.3f}")
    print(f"memory gains {gain:.3f} nats per token on the test split")
    return int(valid >= unigram or gain <= 0)


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that `counts` draw."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
