"""Every kind of file that is read from outside: where a valid one lies, and what reads it."""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import foreign_files
import fuzz_reports
import numpy as np
import zstandard
from builders import CPU, tiny_experiment, tiny_model, write_corpus
from small_tables import write_tables
from tokenizer_rules import REAL

from trainer.checkpoint.hashing import fingerprint
from trainer.config.deepspeed.file import load_ds_config, resolve
from trainer.config.recipe import load_recipe
from trainer.data.corpus import open_corpus, verify_corpus
from trainer.data.prepare.from_ids import prepare_ids
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.data.vocabulary.files import (
    ListedVocabulary,
    SymbolVocabulary,
    TokenizerVocabulary,
    WordVocabulary,
    canonical_hash,
    load_vocabulary,
    save_vocabulary,
)
from trainer.errors import InputError
from trainer.exchange.exporting import export
from trainer.exchange.importing import import_checkpoint
from trainer.exchange.model_card import model_card
from trainer.exchange.vocabularies import read_vocabulary
from trainer.inference.loading import open_trained
from trainer.training.opening import rundir

Form = Literal["json", "bytes", "pickle", "archive", "older"]
V = 20
WORDS = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, V))]
FAIRSEQ_WORDS = ["<s>", "<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, V))]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file that is read from outside."""

    file: str
    """Below the folder of all valid ones."""
    form: Form
    read: Callable[[Path], object]
    """Takes the folder that its first part names."""
    seal: Callable[[Path], object] = lambda folder: None
    """Makes hashes fit that stand in other files, or in its own, as anybody can."""


def _zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", data)
        archive.writestr("b.txt", "w2")
    return file.getvalue()


#: How texts are packed.
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
    "zip": _zipped,
}


def make(base: Path) -> None:
    """Write a valid file of every kind."""
    base.mkdir(parents=True)
    recipe, ds = base / "recipe", base / "deepspeed"
    recipe.mkdir(), ds.mkdir(), (base / "inputs").mkdir()  # type: ignore[func-returns-value]
    (recipe / "recipe.json").write_text(load_recipe("quickstart").model_dump_json())
    values = load_ds_config("zero1_bf16") | {"communication_data_type": "fp32"}
    (ds / "ds.json").write_text(json.dumps(values))
    vocabularies: dict[str, Any] = {
        "words": WordVocabulary(WORDS),
        "bytes": SymbolVocabulary("bytes", "abc \n"),
        "characters": SymbolVocabulary("characters", "aé漢 ", byte_fallback=True),
        "bpe": TokenizerVocabulary(REAL["llama-2"]),
        "symbols": ListedVocabulary(["<end>", "C4", "E4"], end_id=0),
    }
    for name, vocabulary in vocabularies.items():
        (base / name).mkdir()
        save_vocabulary(vocabulary, base / name / "vocabulary.json")
    (base / "tokenizer").mkdir()
    (base / "tokenizer" / "tokenizer.json").write_text(json.dumps(REAL["llama-2"]))
    write_corpus(base / "corpus", vocabulary_size=V, train=[range(V), range(5)], test=[range(9)])
    models = tiny_model(V, cutoffs=(5, 9))
    foreign_files.write_huggingface(base / "huggingface", models, WORDS)
    foreign_files.write_huggingface(base / "huggingface_bin", models, WORDS, safetensors=False)
    foreign_files.write_kimiyoung(base / "kimiyoung", models, WORDS)
    foreign_files.write_kimiyoung(base / "kimiyoung_older", models, WORDS, legacy=True)
    foreign_files.write_nvidia(base / "nvidia", models, WORDS)
    fairseq = tiny_model(V, cutoffs=(5, 9), position_biases="per_layer")
    foreign_files.write_fairseq(base / "fairseq", fairseq, FAIRSEQ_WORDS)
    (base / "pickled").mkdir()
    foreign_files.write_pickled_vocabulary(base / "pickled" / "vocab.pkl", WORDS)
    import_checkpoint(base / "huggingface", out=base / "run")
    (base / "run" / "corpus.json").write_text(json.dumps({"path": str(base / "corpus")}))
    export(base / "run", out=base / "exported", which="best", form="txl")
    fuzz_reports.make(base)
    (base / "ids").mkdir()
    np.save(base / "ids" / "ids.npy", np.array([0, 1, 2, 1], np.uint16))
    np.save(base / "ids" / "starts.npy", np.array([0, 2]))
    (base / "ids" / "symbols.json").write_text('["A", "C", "G"]')
    lines = '{"text": "w2 w3"}\n{"text": "w4\\nw5", "id": 1}\n'
    (base / "inputs" / "text.jsonl").write_text(lines)
    write_tables(base / "tables")
    for suffix, pack in PACKED.items():
        (base / suffix).mkdir()
        (base / suffix / f"text.json.{suffix}").write_bytes(pack(lines.encode()))


def _read_vocabulary(folder: Path) -> None:
    vocabulary = load_vocabulary(folder)
    vocabulary.encode(vocabulary.decode(range(min(vocabulary.size, 5))))
    assert vocabulary.hash


def _read_corpus(folder: Path) -> None:
    open_corpus(folder)
    verify_corpus(folder)


def _read_run(folder: Path) -> None:
    trained = open_trained(folder, which="best", precision=None, device=CPU)
    trained.nats("w2 w3")
    model_card(folder, trained, name="x", form="txl")
    with suppress(InputError):  # it is another experiment's
        rundir.check(folder, tiny_experiment(), allowed=("train.max_steps",))


def _import(folder: Path) -> None:
    out = folder.parent / "imported"
    try:
        import_checkpoint(folder, out=out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _prepare(folder: Path) -> None:
    out, ids = folder.parent / "prepared", folder / "ids.npy"
    given = {"vocab": folder / "symbols.json", "document_starts": folder / "starts.npy"}
    try:
        if folder.name == "ids":
            prepare_ids(PrepareOptions(out=out, ids=ids, **given))
        else:
            prepare(PrepareOptions(out=out, train=(folder,), tokenizer="bytes"))
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _seal_vocabulary(folder: Path) -> None:
    file = folder / "vocabulary.json"
    values = json.loads(file.read_bytes())
    values["hash"] = canonical_hash(values["vocabulary"])
    file.write_text(json.dumps(values))


def _seal_header(folder: Path) -> None:
    file = folder / "train.json"
    values = json.loads(file.read_bytes())
    values.pop("header_hash", None)
    file.write_text(json.dumps(values | {"header_hash": canonical_hash(values)}))


def _seal_checkpoint(folder: Path) -> None:
    (manifest,) = folder.glob("checkpoints/step-*/manifest.json")
    values = json.loads(manifest.read_bytes())
    for name in values["files"]:
        values["files"][name] = fingerprint(manifest.with_name(name))
    manifest.write_text(json.dumps(values))


def _seal_export(folder: Path) -> None:
    file = folder / "config.json"
    values = json.loads(file.read_bytes())
    values["weights"] = fingerprint(folder / "model.safetensors")
    file.write_text(json.dumps(values))


_STEP = "run/checkpoints/step-00000000"
TARGETS = [
    Target(
        file="recipe/recipe.json", form="json", read=lambda f: load_recipe(str(f / "recipe.json"))
    ),
    Target(
        file="deepspeed/ds.json",
        form="json",
        read=lambda f: resolve(
            load_ds_config(str(f / "ds.json")), tiny_experiment(), world_size=1, where="ds.json"
        ),
    ),
    *(
        Target(
            file=f"{name}/vocabulary.json",
            form="json",
            read=_read_vocabulary,
            seal=_seal_vocabulary,
        )
        for name in ("words", "bytes", "characters", "bpe", "symbols")
    ),
    Target(file="tokenizer/tokenizer.json", form="json", read=_read_vocabulary),
    Target(file="corpus/train.json", form="json", read=_read_corpus, seal=_seal_header),
    Target(file="corpus/vocabulary.json", form="json", read=_read_corpus, seal=_seal_vocabulary),
    Target(file="corpus/train.bin", form="bytes", read=_read_corpus),
    Target(file="corpus/train.docs.npy", form="bytes", read=_read_corpus),
    Target(file="run/config.json", form="json", read=_read_run),
    Target(file="run/corpus.json", form="json", read=_read_run),
    Target(file=f"{_STEP}/manifest.json", form="json", read=_read_run),
    Target(file=f"{_STEP}/state.json", form="json", read=_read_run, seal=_seal_checkpoint),
    Target(
        file=f"{_STEP}/weights-00000.safetensors",
        form="bytes",
        read=_read_run,
        seal=_seal_checkpoint,
    ),
    Target(file=f"{_STEP}/index.json", form="json", read=_read_run, seal=_seal_checkpoint),
    Target(file="run/checkpoints/latest", form="bytes", read=_read_run),
    Target(file="run/checkpoints/best", form="bytes", read=_read_run),
    Target(file="exported/config.json", form="json", read=_read_run),
    Target(file="exported/model.safetensors", form="bytes", read=_read_run, seal=_seal_export),
    *(
        Target(file=file, form=form, read=read)
        for file, (form, read) in fuzz_reports.targets().items()
    ),
    Target(file="huggingface/config.json", form="json", read=_import),
    Target(file="huggingface/model.safetensors", form="bytes", read=_import),
    Target(file="huggingface/vocab.txt", form="bytes", read=_import),
    Target(file="huggingface_bin/pytorch_model.bin", form="archive", read=_import),
    Target(file="kimiyoung/model.pt", form="archive", read=_import),
    Target(file="kimiyoung/cache.pt", form="archive", read=_import),
    Target(file="kimiyoung_older/model.pt", form="older", read=_import),
    Target(file="nvidia/checkpoint_best.pt", form="archive", read=_import),
    Target(file="fairseq/checkpoint_best.pt", form="archive", read=_import),
    Target(file="fairseq/dict.txt", form="bytes", read=_import),
    Target(
        file="pickled/vocab.pkl", form="pickle", read=lambda f: read_vocabulary(f / "vocab.pkl")
    ),
    *(Target(file=f"ids/{n}.npy", form="bytes", read=_prepare) for n in ("ids", "starts")),
    Target(file="ids/symbols.json", form="json", read=_prepare),
    *(
        Target(file=f"tables/{name}", form="bytes", read=_prepare)
        for name in ("a.parquet", "b.arrow", "c.arrow", "state.json")
    ),
    Target(file="inputs/text.jsonl", form="bytes", read=_prepare),
    *(
        Target(file=f"{suffix}/text.json.{suffix}", form="bytes", read=_prepare)
        for suffix in PACKED
    ),
]


#: What a file may be instead of one, and how it is made.
NO_FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "empty": Path.touch,
}


def try_file(base: Path, target: Target, data: bytes | str, *, sealed: bool) -> object:
    """Read a valid folder in which one file holds `data`, or is one of `NO_FILES`.

    Then everything is put back.
    """
    folder, file = base / Path(target.file).parts[0], base / target.file
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        _put(file, data)
        if sealed and isinstance(data, bytes):
            with suppress(Exception):  # what cannot be sealed stays as it is
                target.seal(folder)
        return target.read(folder)
    finally:
        for path in [path for path in folder.rglob("*") if path not in kept and path.is_file()]:
            path.unlink()
        for path, content in kept.items():
            _put(path, content)


def _put(path: Path, data: bytes | str) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        NO_FILES[data](path)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
