"""Preparing a known corpus, from the network or a folder, exactly as the reference does."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from trainer.data.prepare.by_name.download import CACHE_FOLDER, checksum_of, download
from trainer.data.prepare.by_name.known_corpora import KnownCorpus, KnownFile
from trainer.data.prepare.from_text import PrepareOptions
from trainer.data.prepare.inputs import Inputs
from trainer.data.prepare.report import PrepareReport
from trainer.data.prepare.workers import count_words_in
from trainer.data.prepare.writer import new_corpus_folder
from trainer.data.prepare.writing import write_corpus
from trainer.data.text.finding import text_file
from trainer.data.text.pieces import Piece
from trainer.data.text.source import Reading, TextFile
from trainer.data.text.splitting import Routed, by_position
from trainer.data.vocabulary.files import SymbolVocabulary, Vocabulary, WordVocabulary
from trainer.errors import InputError

_ALLOWED_FLAGS = {"--out", "--overwrite", "--workers"}
FilePaths = Mapping[KnownFile, Path]


def prepare_known(
    corpus: KnownCorpus,
    options: PrepareOptions,
    *,
    source: Path | None = None,
    cache: Path | None = None,
) -> PrepareReport:
    """Write the known corpus at `options.out`, whole or not at all.

    Args:
        corpus: the corpus to prepare.
        options: only `out`, `overwrite` and, for words, `workers` may be set.
        source: a folder that has the files, under any of their names; None downloads them.
        cache: the folder of downloads; None is `downloads` beside `out`.

    Raises:
        InputError: a file is missing or not the published one, an option does not apply to a known
            corpus, or the output cannot be written.
    """
    if refused := [flag for flag in options.flags() if flag not in _ALLOWED_FLAGS]:
        raise InputError(
            f"{', '.join(refused)}: for text of your own; {corpus.name} is made in one way, "
            "that of its published results"
        )
    if options.workers < 1 or (options.workers > 1 and corpus.kind != "words"):
        raise InputError(
            f"--workers {options.workers}: at least 1, and more for words alone; {corpus.name} is "
            f"of {corpus.kind}"
        )
    if source and cache:
        raise InputError("--from reads a folder, --cache keeps downloads: give one of them")
    try:
        with new_corpus_folder(options.out, overwrite=options.overwrite) as folder:
            if source:
                paths = _in_folder(corpus, source)
            else:
                paths = _downloaded(corpus, cache or options.out.resolve().parent / CACHE_FOLDER)
            inputs = _inputs(corpus, paths)
            n_workers = options.workers
            vocabulary = _vocabulary(corpus, inputs, n_workers)
            made = _made(corpus, paths, source)
            splits = write_corpus(folder, inputs, vocabulary, made=made, n_workers=n_workers)
    except OSError as error:
        raise InputError(f"{options.out}: cannot be written: {error}") from None
    return PrepareReport(
        out=options.out,
        vocabulary=vocabulary,
        splits=splits,
        remarks=(corpus.note,),
    )


def _downloaded(corpus: KnownCorpus, cache: Path) -> FilePaths:
    """Return the files of the first source, downloading those that the cache lacks.

    A wrong file in the cache stays until the published one is complete.
    """
    paths = {file: cache / file.name for file in corpus.sources[0]}
    for file, path in paths.items():
        if not path.is_file() or checksum_of(path, like=file.checksum) != file.checksum:
            download(path, urls=file.urls, checksum=file.checksum)
    return paths


def _in_folder(corpus: KnownCorpus, folder: Path) -> FilePaths:
    """Return the files of the first source that the folder has whole and as published."""
    problems = []
    for files in corpus.sources:
        paths = {file: path for file in files if (path := _named(file, folder))}
        if len(paths) < len(files):
            continue
        different = [
            f"{path}: its checksum is {checksum}, expected {file.checksum}"
            for file, path in paths.items()
            if (checksum := checksum_of(path, like=file.checksum)) != file.checksum
        ]
        if not different:
            return paths
        problems += different
    if problems:
        raise InputError(
            f"{'; '.join(problems)}: not the text that results are published on (nothing was "
            "changed); get it again, or prepare it as your own with --train"
        )
    wanted = " or ".join(", ".join(file.name for file in files) for files in corpus.sources)
    raise InputError(f"--from {folder}: {corpus.name} needs {wanted} there")


def _named(file: KnownFile, folder: Path) -> Path | None:
    names = (file.name, *file.other_names)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _inputs(corpus: KnownCorpus, paths: FilePaths) -> Inputs:
    texts = {
        split: (_text(path, member),)
        for file, path in paths.items()
        for split, member in file.texts.items()
    }
    inputs = partial(Inputs, files=texts, reading=Reading(as_bytes=corpus.kind == "bytes"))
    if corpus.held_out_bytes is None:
        return inputs(splits=tuple(texts))
    n_held_out = corpus.held_out_bytes
    n_bytes = texts["train"][0].n_bytes
    shares = {"train": n_bytes - 2 * n_held_out, "valid": n_held_out, "test": n_held_out}
    return inputs(splits=tuple(shares), divide=partial(_divided, shares=shares, strip=corpus.strip))


def _text(path: Path, member: str | None) -> TextFile:
    if member is None:
        return text_file(path, Reading(format="text"))
    return TextFile(path, f"{path}: {member}", "text", member)


def _divided(pieces: Iterable[Piece], *, shares: Mapping[str, int], strip: bool) -> Routed:
    routed = by_position(pieces, shares, n_characters=sum(shares.values()), whole_lines=False)
    return _stripped(routed) if strip else routed


def _stripped(routed: Routed) -> Routed:
    """Strip white space from the ends of each split, which is one document."""
    begun: set[str] = set()
    held = ""  # white space at a split's end, unless more text follows
    for name, (text, ends_document) in routed:
        text = held + text if name in begun else text.lstrip()
        kept = text.rstrip()
        held = text[len(kept) :]  # dropped when the next split begins
        if kept:
            begun.add(name)
        if kept or ends_document:
            yield name, Piece(kept, ends_document)


def _vocabulary(corpus: KnownCorpus, inputs: Inputs, n_workers: int) -> Vocabulary:
    with closing(inputs.read_only(corpus.counted, "vocabulary")) as pieces:
        if corpus.kind == "words":
            lowercase = corpus.lowercase
            counts = count_words_in(pieces, n_workers=n_workers, lowercase=lowercase)
            return WordVocabulary.of_counts(counts, lowercase=lowercase)
        return SymbolVocabulary.build(corpus.kind, pieces, line_ends=corpus.line_ends)


def _made(corpus: KnownCorpus, paths: FilePaths, source: Path | None) -> dict[str, object]:
    return {
        "known": corpus.name,
        "files": [
            {"name": path.name, "checksum": file.checksum, "urls": list(file.urls)}
            for file, path in paths.items()
        ],
        "from": str(source) if source else None,
    }
