"""What many tests begin with: a small corpus on disk, a small model, segments without a corpus."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.config.lengths import Lengths, Stage
from trainer.config.recipe import (
    ExperimentConfig,
    ModelConfig,
    ScoringConfig,
    load_recipe,
    recipe_names,
)
from trainer.data.corpus import Corpus, Split, open_corpus
from trainer.data.prepare.writer import SplitWriter
from trainer.data.rows import clusters_of
from trainer.data.streams import Streams
from trainer.data.vocabulary.files import (
    VOCABULARY_FILE,
    WordVocabulary,
    canonical_hash,
    save_vocabulary,
)
from trainer.distributed import World
from trainer.model.memory.inputs import LayerInputs
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import IGNORED, Segment

CPU = torch.device("cpu")

Document = Sequence[int] | npt.NDArray[np.int64]


def lone_world(*, rank: int = 0, world_size: int = 1) -> World:
    """Return a process on the CPU that talks to no other."""
    return World(rank=rank, world_size=world_size, local_rank=rank, device=CPU)


def words(size: int) -> WordVocabulary:
    """Return a vocabulary of `size` words."""
    return WordVocabulary(["<eos>", "<unk>", *(f"w{i}" for i in range(2, size))])


def write_corpus(folder: Path, *, vocabulary_size: int, **splits: Iterable[Document]) -> Corpus:
    """Write a corpus with the given splits, each a list of documents of ids."""
    folder.mkdir(parents=True)
    vocabulary = words(vocabulary_size)
    save_vocabulary(vocabulary, folder / VOCABULARY_FILE)
    for name, documents in splits.items():
        writer = SplitWriter(folder, name, vocabulary)
        for document in documents:
            ids = np.array(document, np.uint32)
            writer.add(ids, n_words=len(ids), n_characters=3 * len(ids), ends_document=True)
        writer.finish(splits=list(splits), made={"by": "test"})
    return open_corpus(folder)


def rewrite_header(path: Path, **changes: object) -> None:
    """Give a header other fields and a hash made anew; what lies beside it stays."""
    values = json.loads(path.read_text()) | changes
    del values["header_hash"]
    path.write_text(json.dumps(values | {"header_hash": canonical_hash(values)}))


def write_split(folder: Path, documents: Iterable[Document], *, vocabulary_size: int) -> Split:
    """Write the one split of a corpus."""
    return write_corpus(folder, vocabulary_size=vocabulary_size, train=documents).splits["train"]


def random_documents(
    n_tokens: int, *, vocabulary_size: int, n_documents: int = 1, seed: int = 0
) -> list[npt.NDArray[np.int64]]:
    """Return `n_tokens` random ids, cut at random into up to `n_documents`."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, vocabulary_size, n_tokens)
    return np.split(ids, np.sort(random.integers(0, n_tokens, n_documents - 1)))


def streams_of(
    split: Split,
    *,
    tgt_len: int,
    mem_len: int = 0,
    bptt_segments: int = 1,
    kind: type[Streams] = Streams,
    **layout: Any,
) -> Streams:
    """Return streams whose lengths never change; by default of a model that carries no memory."""
    stages = (Stage(0, Lengths(tgt_len, mem_len, bptt_segments)),)
    return kind(split=split, stages=stages, **layout)


def tiny_model_config(**changes: Any) -> ModelConfig:
    """Return a model of two layers, without dropout, whose weights are large enough to matter."""
    sizes = {"n_layer": 2, "d_model": 8, "n_head": 2, "d_head": 3, "d_inner": 12}
    return ModelConfig(
        **{**sizes, "dropout": 0.0, "init_std": 0.5, "projection_init_std": 0.5, **changes}
    )


def random_split(folder: Path, n_tokens: int, *, vocabulary_size: int, n_documents: int) -> Split:
    """Write a corpus of random documents into a folder, and return its split."""
    documents = random_documents(
        n_tokens, vocabulary_size=vocabulary_size, n_documents=n_documents, seed=1
    )
    return write_split(folder / "corpus", documents, vocabulary_size=vocabulary_size)


def recipes_of_transformer_xl() -> list[str]:
    """Return the names of the packaged recipes whose model is Transformer-XL."""
    return [name for name in recipe_names() if load_recipe(name).model.builder is None]


def tiny_model(vocabulary_size: int = 20, *, seed: int = 0, **changes: Any) -> TransformerXL:
    """Return a model of `tiny_model_config` in fp64, with every bias away from zero."""
    torch.manual_seed(seed)
    model = TransformerXL(tiny_model_config(**changes), vocabulary_size).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def empty(model: TransformerXL, n_streams: int, mem_len: int) -> LayerInputs:
    """Return a model's empty memory, in the dtype of its weights."""
    dtype = next(model.parameters()).dtype
    return model.empty_memory(n_streams, mem_len=mem_len, dtype=dtype, device=CPU)


def segment_of(
    tokens_BT: Tensor,
    targets_BT: Tensor | None = None,
    *,
    lengths: Sequence[int] | None = None,
    starts_BT: Tensor | None = None,
    cutoffs: tuple[int, ...] = (),
) -> Segment:
    """Return a segment of these tokens, predicting `targets_BT`, or else each row's next token."""
    n_streams, tgt_len = tokens_BT.shape
    lengths_B = torch.tensor(lengths if lengths is not None else [tgt_len] * n_streams)
    if targets_BT is None:
        targets_BT = tokens_BT.roll(-1, dims=1)
    padding_BT = torch.arange(tgt_len) >= lengths_B[:, None]
    targets_BT = targets_BT.masked_fill(padding_BT, IGNORED)
    return Segment(
        tokens_BT=tokens_BT,
        targets_BT=targets_BT,
        lengths_B=lengths_B,
        starts_BT=starts_BT,
        token_clusters=clusters_of(tokens_BT.numpy(), cutoffs),
        target_clusters=clusters_of(targets_BT.numpy(), cutoffs),
        n_tokens=int((targets_BT != IGNORED).sum()),
        whole=bool((lengths_B == tgt_len).all()),
    )


def scoring(**changes: Any) -> ScoringConfig:
    """Return settings of an evaluation."""
    return ScoringConfig(**{"tgt_len": 4, "mem_len": 6, "batch_size": 2, **changes})


def tiny_experiment(**parts: dict[str, Any]) -> ExperimentConfig:
    """Return a tiny model's experiment; `parts` change fields, as in ``train={"tgt_len": 5}``."""
    lengths = {"tgt_len": 4, "mem_len": 6}
    values: dict[str, dict[str, Any]] = {
        "model": tiny_model_config().model_dump(),
        "train": {"train_batch_size": 4, "max_steps": 10, **lengths},
        "optim": {"lr": 1e-3},
        "valid": lengths,
        "eval": lengths,
    }
    for name, changes in parts.items():
        values[name] = {**values.get(name, {}), **changes}
    return ExperimentConfig.model_validate(values)
