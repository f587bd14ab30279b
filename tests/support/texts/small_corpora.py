"""Known corpora with small texts, served from this machine, and the reference done plainly."""

import hashlib
import io
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from archives import make_tgz, make_zip
from file_server import Served

from trainer.data.corpus import Corpus, open_corpus, verify_corpus
from trainer.data.prepare.by_name.from_known import prepare_known
from trainer.data.prepare.by_name.known_corpora import KnownCorpus, KnownFile, known_corpus
from trainer.data.prepare.from_text import PrepareOptions

HELD_OUT = 90

#: Ties, blank lines, odd white space, spaces at the ends of lines, a last line without its end.
WORDS = {
    "train": "\n = The Title = \n\n b a c the The <unk> d\n  é\u00a0b x\x0cy \n <unk> N $ \n" * 2,
    "valid": " only <unk> in Valid \n \n zz a\n",
    "test": "yy Only in test\nÉ N b",
}
#: Ties, line ends on both sides of where the splits meet, bytes that are no UTF-8.
BYTES = "<a>\r\n\n bé b\tc &amp;\n".encode() * 2000 + b"\xff z\n" + b" \n q\n" * 40
#: White space on both sides of where the splits meet, and more of it than is read at once.
CHARACTERS = "  the cat" + " " * 100_000 + "sat" + " " * 100_009 + "q dog ran  " * 15 + "ab   "


def small_texts(name: str) -> dict[str, bytes]:
    """Return a small text in the place of each text of a corpus."""
    whole = {"enwik8": BYTES, "text8": CHARACTERS.encode()}
    if name in whole:
        return {"train": whole[name]}
    return {split: text.encode() for split, text in WORDS.items()}


@dataclass
class Small:
    """A known corpus but for its text, what follows from that, and where it is served."""

    corpus: KnownCorpus
    contents: dict[KnownFile, bytes]
    served: Served

    def prepare(self, out: Path, *, workers: int = 1, **options: object) -> Corpus:
        given = PrepareOptions(out=out, overwrite=True, workers=workers)
        prepare_known(self.corpus, given, **options)  # type: ignore[arg-type]
        verify_corpus(out)
        return open_corpus(out)


def small(name: str, served: Served, scratch: Path, texts: dict[str, bytes]) -> Small:
    contents: dict[KnownFile, bytes] = {}

    def made(file: KnownFile) -> KnownFile:
        packed = pack(file, texts, scratch)
        served.files[f"/{file.name}"] = packed
        checksum = f"sha256:{hashlib.sha256(packed).hexdigest()}"
        urls = (f"{served.url}/{file.name}",) if file.urls else ()
        file = replace(file, checksum=checksum, urls=urls)
        contents[file] = packed
        return file

    known = known_corpus(name)
    sources = tuple(tuple(map(made, files)) for files in known.sources)
    held_out = known.held_out_bytes and HELD_OUT
    return Small(replace(known, sources=sources, held_out_bytes=held_out), contents, served)


def pack(file: KnownFile, texts: dict[str, bytes], scratch: Path) -> bytes:
    members = {member: texts[split] for split, member in file.texts.items() if member}
    if not members:
        return texts[next(iter(file.texts))]
    make = make_zip if file.name.endswith(".zip") else make_tgz
    return make(scratch, {"README": b"read me", **members}).read_bytes()


def reference(name: str, texts: dict[str, bytes]) -> tuple[list[str], dict[str, list[str]]]:
    """Return each split's vocabulary and tokens by the reference's scripts, done plainly."""
    if name == "enwik8":
        cuts = in_three(texts["train"])
        lines = {
            split: " ".join("\n" if byte == 10 else str(byte) for byte in part).split("\n")
            for split, part in cuts.items()
        }
    elif name == "text8":
        cuts = in_three(texts["train"])
        lines = {
            split: [" ".join(part.decode().strip().replace(" ", "_"))]
            for split, part in cuts.items()
        }
    else:
        # As a text file is opened: a line ends at \n, \r or both.
        lines = {split: [*io.TextIOWrapper(io.BytesIO(text))] for split, text in texts.items()}
    symbols = {
        split: [(line.lower() if name in ("ptb", "text8") else line).split() for line in those]
        for split, those in lines.items()
    }
    counted = ["train"] if name == "wikitext-103" else ["train", "valid", "test"]
    counts = Counter(word for split in counted for line in symbols[split] for word in line)
    of_words = name not in ("enwik8", "text8")
    vocabulary = ["<eos>"] * of_words + [word for word, _ in counts.most_common()]
    ends = ["<eos>"] * of_words
    return vocabulary, {
        split: [symbol for line in those for symbol in line + ends]
        for split, those in symbols.items()
    }


def in_three(text: bytes) -> dict[str, bytes]:
    return {
        "train": text[: -2 * HELD_OUT],
        "valid": text[-2 * HELD_OUT : -HELD_OUT],
        "test": text[-HELD_OUT:],
    }
