"""Preparing a corpus from text: a pass over train for the vocabulary, then one to encode all."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from trainer.data.prepare.ids_file import IdsType
from trainer.data.prepare.inputs import (
    Inputs,
    SplitBy,
    divided,
    find_inputs,
    shares_line,
)
from trainer.data.prepare.locating import located
from trainer.data.prepare.report import PrepareReport
from trainer.data.prepare.workers import count_words_in
from trainer.data.prepare.writer import SCRATCH_FILE, new_corpus_folder
from trainer.data.prepare.writing import write_corpus
from trainer.data.text.json_lines import OnBadLine
from trainer.data.text.pieces import Piece
from trainer.data.text.source import AskedFormat, Reading
from trainer.data.text.splitting import SPLITS
from trainer.data.vocabulary.files import (
    MadeKind,
    SymbolVocabulary,
    TokenizerVocabulary,
    UnknownSymbolError,
    Vocabulary,
    VocabularyKind,
    WordVocabulary,
    load_vocabulary,
)
from trainer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Turn text into a corpus."""

    out: Path
    """folder of the new corpus"""
    train: tuple[Path, ...] = ()
    """text to train on: text files, JSON lines, either of them packed (gzip, bzip2, xz, zip, zst),
    Parquet and Arrow tables, and folders of them, also of Hugging Face datasets; - is stdin"""
    valid: tuple[Path, ...] = ()
    """text to validate on"""
    test: tuple[Path, ...] = ()
    """text to test on"""
    split: str | None = None
    """shares of train, valid and test to take from the text of --train, such as 98,1,1"""
    split_by: SplitBy = "auto"
    """document: whole documents (files, JSON lines), where shares are missed least; position: in
    order, cut at line ends; auto: by position where documents miss a share by more than half"""
    format: AskedFormat = "auto"
    """auto: by the bytes of each file, .jsonl and .ndjson being JSON lines; text: even if it looks
    like JSON or HTML; jsonl: JSON lines; raw: bytes as they are, nothing unpacked or left out"""
    suffixes: tuple[str, ...] = ()
    """folders and archives: read the files of these suffixes, such as .md .py; without it .txt
    .text .tokens .jsonl .ndjson .json .parquet .arrow, leaving out README, LICENSE and their like,
    .md, .rst and .py; these where there is nothing else"""
    text_field: str = "text"
    """key of the text in JSON lines, and column of the text in tables"""
    on_bad_line: OnBadLine = "stop"
    """JSON lines and rows without a text: stop with an error, or skip and count them"""
    tokenizer: MadeKind | None = None
    """words (the default), bytes, characters or bpe"""
    vocab: Path | None = None
    """vocabulary of another corpus or run, or a tokenizer.json, instead of one from train"""
    min_count: int = 1
    """words: rarer ones become <unk>"""
    max_size: int | None = None
    """words: size of the vocabulary at most, <eos> and <unk> included"""
    lowercase: bool = False
    """words: make the text lower case"""
    unk: bool = False
    """characters: an <unk> for what train lacks; without it such a character is an error"""
    byte_fallback: bool = False
    """characters: what train lacks becomes the bytes of its UTF-8, so that nothing is unknown"""
    vocab_size: int = 16_384
    """bpe: size of the vocabulary at most"""
    bpe_sample_mib: int = 2048
    """bpe: MiB of characters, from the start of train, that the vocabulary is learnt from"""
    ids: Path | None = None
    """ids ready made to train on, of anything: a .npy of one axis, or a file of bare numbers
    (little endian); then --vocab is a list of symbols or an object symbol: id in JSON, or a
    vocabulary as without --ids, and --valid and --test are ids too"""
    ids_dtype: IdsType | None = None
    """ids: type of bare numbers; without it the narrowest that holds the vocabulary"""
    end_id: int | None = None
    """ids: the id that ends every document"""
    document_starts: Path | None = None
    """ids: a .npy of the positions in --ids at which documents start; the first is 0"""
    workers: int = 1
    """words: processes that count and encode; the corpus is the same"""
    overwrite: bool = False
    """replace the corpus at --out"""

    def flags(self) -> list[str]:
        """Return the flags of the options that differ from their defaults."""
        return [
            _flag(field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]


# The tokenizers to which an option applies.
_APPLIES_TO: dict[str, tuple[MadeKind, ...]] = {
    "min_count": ("words",),
    "max_size": ("words",),
    "lowercase": ("words",),
    "workers": ("words",),
    "unk": ("characters",),
    "byte_fallback": ("characters",),
    "vocab_size": ("bpe",),
    "bpe_sample_mib": ("bpe",),
}


def prepare(options: PrepareOptions, *, stdin: BinaryIO | None = None) -> PrepareReport:
    """Write the corpus at `options.out`, whole or not at all.

    Args:
        options: what to read, and how.
        stdin: the stream of the path `-`; kept on disk meanwhile, because it is read twice.

    Raises:
        InputError: an option, an input or the output folder cannot be used, or the disk is full.
    """
    if options.ids is not None:
        raise ValueError("ids are prepared by `trainer.data.prepare.from_ids`")
    given = load_vocabulary(options.vocab) if options.vocab else None
    kind = checked_kind(options, given)
    try:
        return _prepare(options, kind, given, stdin)
    except OSError as error:
        raise InputError(f"{options.out}: cannot be written: {error}") from None


def _prepare(
    options: PrepareOptions, kind: VocabularyKind, given: Vocabulary | None, stdin: BinaryIO | None
) -> PrepareReport:
    """Write the corpus, by options that go together; see `prepare`."""
    with new_corpus_folder(options.out, overwrite=options.overwrite) as folder:
        paths = {name: getattr(options, name) for name in SPLITS}
        inputs = find_inputs(
            {name: given_paths for name, given_paths in paths.items() if given_paths},
            Reading(format=options.format, text_field=options.text_field, as_bytes=kind == "bytes"),
            suffixes=options.suffixes,
            on_bad_line=options.on_bad_line,
            stdin=stdin,
            scratch=folder / SCRATCH_FILE,
        )
        if options.split:
            inputs = divided(
                inputs,
                options.split,
                by=options.split_by,
                whole_lines=kind not in ("bytes", "characters"),
            )
        vocabulary = given or _build_vocabulary(options, inputs)
        try:
            made, n_workers = _as_json(options), options.workers
            splits = write_corpus(folder, inputs, vocabulary, made=made, n_workers=n_workers)
        except UnknownSymbolError as error:
            where = located(error, inputs, vocabulary)
            raise InputError(f"{where}: {_fix_of_unknown(given)}") from None
        remarks = list(inputs.remarks)
        if options.split:
            came = {split.name: split.n_characters for split in splits}
            remarks.insert(0, shares_line(inputs, came))
    return PrepareReport(
        out=options.out,
        vocabulary=vocabulary,
        splits=splits,
        remarks=tuple(remarks),
    )


def checked_kind(options: PrepareOptions, given: Vocabulary | None) -> VocabularyKind:
    """Return the kind of the vocabulary; raise `InputError` where options do not go together."""
    if not (options.train or options.valid or options.test):
        raise InputError(
            "no text: give --train, --valid or --test, or the name of a known corpus (see --help)"
        )
    if not (options.train or given):
        raise InputError("no text to make a vocabulary from: give --train, or --vocab")
    if options.split and (options.valid or options.test or not options.train):
        raise InputError("--split divides --train: give it with --train, without --valid or --test")
    if options.split_by != "auto" and not options.split:
        raise InputError(f"--split-by {options.split_by}: says how to divide, so it needs --split")
    if wrong := [suffix for suffix in options.suffixes if not suffix.startswith(".")]:
        raise InputError(f"--suffixes {' '.join(wrong)}: a suffix begins with a dot, such as .txt")
    if given and options.tokenizer not in (None, given.kind):
        raise InputError(
            f"--tokenizer {options.tokenizer}: --vocab {options.vocab} is of kind {given.kind}"
        )
    kind = given.kind if given else options.tokenizer or "words"
    given_flags = options.flags()
    if of_ids := {"--ids-dtype", "--end-id", "--document-starts"} & {*given_flags}:
        raise InputError(f"{', '.join(sorted(of_ids))}: for ids ready made: give them with --ids")
    for name, kinds in _APPLIES_TO.items():
        flag = _flag(name)
        if flag not in given_flags:
            continue
        if given and name != "workers":
            raise InputError(f"{flag}: says how to make a vocabulary, but --vocab gives one")
        if kind not in kinds:
            alone = "; bpe uses all cores by itself" if (name, kind) == ("workers", "bpe") else ""
            raise InputError(
                f"{flag}: for {' and '.join(kinds)}, but the tokenizer is {kind}{alone}"
            )
    if options.unk and options.byte_fallback:
        raise InputError("--unk, --byte-fallback: each says what an unknown character becomes")
    _check_sizes(options)
    return kind


def _check_sizes(options: PrepareOptions) -> None:
    least = {"min_count": 1, "max_size": 2, "vocab_size": 257, "bpe_sample_mib": 1, "workers": 1}
    for name, minimum in least.items():
        value = getattr(options, name)
        if value is not None and value < minimum:
            raise InputError(f"{_flag(name)} {value}: must be at least {minimum}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _as_json(options: PrepareOptions) -> dict[str, Any]:
    return {
        name: [str(path) for path in value] if isinstance(value, tuple) else value
        for name, value in asdict(options).items()
        if name not in ("out", "vocab", "overwrite", "workers")
    } | {"vocab": str(options.vocab) if options.vocab else None}


def _fix_of_unknown(given: Vocabulary | None) -> str:
    if given:
        return "the vocabulary of --vocab stays as it is: mend the text, or take another one"
    return (
        "make such characters <unk> with --unk, or their bytes with --byte-fallback; --tokenizer "
        "bytes and bpe read anything"
    )


def _build_vocabulary(options: PrepareOptions, inputs: Inputs) -> Vocabulary:
    """Build the vocabulary from the train split alone."""
    with closing(inputs.read_only(["train"], "vocabulary")) as pieces:
        match options.tokenizer or "words":
            case "words":
                lowercase = options.lowercase
                counts = count_words_in(pieces, n_workers=options.workers, lowercase=lowercase)
                return WordVocabulary.of_counts(
                    counts,
                    min_count=options.min_count,
                    max_size=options.max_size,
                    lowercase=lowercase,
                )
            case "bytes":
                return SymbolVocabulary.build("bytes", pieces, all_bytes=True)
            case "characters":
                return SymbolVocabulary.build(
                    "characters", pieces, unk=options.unk, byte_fallback=options.byte_fallback
                )
            case "bpe":
                sample = _first(pieces, n_characters=options.bpe_sample_mib << 20)
                return TokenizerVocabulary.build(sample, size=options.vocab_size)


def _first(pieces: Iterable[Piece], *, n_characters: int) -> Iterator[Piece]:
    n_seen = 0
    for piece in pieces:
        if n_seen >= n_characters:
            return
        yield piece
        n_seen += len(piece.text)
