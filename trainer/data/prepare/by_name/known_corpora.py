"""The corpora on which the field compares: their places, checksums and rules.

Each gets exactly the ids of kimiyoung/transformer-xl, because published figures are for those:

- wikitext-103: words as they are, a vocabulary of train alone.
- wikitext-2, ptb: a vocabulary of all three splits, and ptb in lower case.
- enwik8: bytes **without line ends**, so 204 symbols, not 205; bpc is per byte that is kept. The
  reference writes bytes as numbers between spaces, and loses line ends as white space.
- text8: characters; every split without the spaces at its ends.

Words have `<eos>` (id 0) at every line end; enwik8 and text8 have none, take their symbols from
all three splits, and are split by position. Ids go by descending count, ties by first appearance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.data.text.splitting import SPLITS
from trainer.errors import InputError, did_you_mean

#: The corpus by name that is not made in one way alone, and has no checksums: see `pg19`.
PG19 = "pg19"
# The common names of a corpus's splits, also used by kimiyoung's script.
_PLAIN_NAME = "{split}.txt"
_HELD_OUT_BYTES = 5_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownFile:
    """A file that holds text of a corpus.

    Attributes:
        checksum: `sha256:HEX`; a file with another checksum is not read.
        texts: the member of each split, if the file is an archive; None if the file is the text.
        urls: addresses of the file, tried in order.
        other_names: other names that the file may have in the user's folder.
    """

    name: str
    checksum: str
    texts: Mapping[str, str | None]
    urls: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KnownCorpus:
    """A corpus by name.

    Attributes:
        sources: sets of files, each of which holds the whole text. The first set is downloaded; a
            user's folder may hold any of them.
        counted: the splits from which the vocabulary is made.
        held_out_bytes: length of valid, and of test, at the end of the one text; None if each split
            has a text of its own.
        note: a peculiarity of the corpus, for the user.
    """

    name: str
    kind: Literal["words", "bytes", "characters"]
    sources: tuple[tuple[KnownFile, ...], ...]
    note: str
    counted: tuple[str, ...] = SPLITS
    held_out_bytes: int | None = None
    lowercase: bool = False
    line_ends: bool = True
    strip: bool = False


def known_corpus(name: str) -> KnownCorpus:
    """Return the corpus of that name; raise `InputError` with the nearest name if there is none."""
    corpora = {corpus.name: corpus for corpus in known_corpora()}
    if name not in corpora:
        names = [*corpora, PG19]
        raise InputError(
            f"{name}: no such known corpus{did_you_mean(name, names)}; there are "
            f"{', '.join(names)}; text of your own goes with --train"
        )
    return corpora[name]


def known_corpora() -> tuple[KnownCorpus, ...]:
    """Return all known corpora. Several public sources agree on every checksum."""
    return (
        _wikitext(
            "wikitext-103",
            "sha256:242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
            train="sha1:b7497e2dfe77e72cfef5e3dbc61b7b53712ac211",
            valid="sha1:c326ac59dc587676d58c422eb8a03e119582f92b",
            test="sha1:8a5befc548865cec54ed4273cf87dbbad60d1e47",
            counted=("train",),
            note="wikitext-103: the vocabulary is of train alone, as the reference has it",
        ),
        _wikitext(
            "wikitext-2",
            "sha256:92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
            train="sha1:863f29c46ef9d167fff4940ec821195882fe29d1",
            valid="sha1:0418625c8b4da6e4b5c7a0b9e78d4ae8f7ee5422",
            test="sha1:c7b8ce0aa086fb34dab808c5c49224211eb2b172",
            counted=SPLITS,
            note="wikitext-2: the vocabulary is of all three splits, as the reference has it",
        ),
        _one_text(
            "enwik8",
            "bytes",
            "sha256:547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
            text="sha256:2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
            note="enwik8: without its line ends, as the published bpc has it; "
            "`--train enwik8 --split 90,5,5 --tokenizer bytes` keeps them",
        ),
        _one_text(
            "text8",
            "characters",
            "sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
            text="sha256:6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
            note="text8: every split without the spaces at its ends, as the reference has it",
        ),
        _ptb(),
    )


def _wikitext(
    name: str, archive: str, *, counted: tuple[str, ...], note: str, **texts: str
) -> KnownCorpus:
    """Return a WikiText: its archive, or its texts; `archive` and `texts` are checksums."""
    members = {split: f"{name}/wiki.{split}.tokens" for split in texts}
    packed = KnownFile(
        name=f"{name}-v1.zip",
        checksum=archive,
        texts=members,
        urls=(
            f"https://wikitext.smerity.com/{name}-v1.zip",
            f"https://s3.amazonaws.com/research.metamind.io/wikitext/{name}-v1.zip",
        ),
    )
    return KnownCorpus(
        name=name,
        kind="words",
        sources=((packed,), _loose(members, texts)),
        counted=counted,
        note=note,
    )


def _one_text(
    name: Literal["enwik8", "text8"],
    kind: Literal["bytes", "characters"],
    archive: str,
    *,
    text: str,
    note: str,
) -> KnownCorpus:
    """Return a corpus of one text, whose ends are valid and test."""
    packed = KnownFile(
        name=f"{name}.zip",
        checksum=archive,
        texts={"train": name},
        urls=(
            f"https://mattmahoney.net/dc/{name}.zip",
            f"http://mattmahoney.net/dc/{name}.zip",
            f"https://data.deepai.org/{name}.zip",
        ),
    )
    return KnownCorpus(
        name=name,
        kind=kind,
        sources=((packed,), (KnownFile(name=name, checksum=text, texts={"train": None}),)),
        held_out_bytes=_HELD_OUT_BYTES,
        line_ends=kind != "bytes",
        strip=kind == "characters",
        note=note,
    )


def _ptb() -> KnownCorpus:
    """Return the Penn Treebank: three texts, or the archive that also holds them."""
    checksums = {
        "train": "sha256:fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        "valid": "sha256:c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        "test": "sha256:dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    }
    members = {split: f"./simple-examples/data/ptb.{split}.txt" for split in SPLITS}
    hosts = tuple(
        f"https://raw.githubusercontent.com/{owner}/lstm/master/data/"
        for owner in ("wojzaremba", "tomsercu")
    )
    packed = KnownFile(
        name="simple-examples.tgz",
        checksum="md5:30177ea32e27c525793142b6bf2c8e2d",
        texts=members,
    )
    return KnownCorpus(
        name="ptb",
        kind="words",
        sources=(_loose(members, checksums, hosts=hosts), (packed,)),
        lowercase=True,
        note="ptb: in lower case, the vocabulary of all three splits, as the reference has it",
    )


def _loose(
    members: Mapping[str, str], checksums: Mapping[str, str], *, hosts: tuple[str, ...] = ()
) -> tuple[KnownFile, ...]:
    """Return an archive's texts as single files, named with the archive's folder or without."""
    names = {split: member.rpartition("/")[2] for split, member in members.items()}
    return tuple(
        KnownFile(
            name=names[split],
            checksum=checksum,
            texts={split: None},
            urls=tuple(host + names[split] for host in hosts),
            other_names=(members[split], _PLAIN_NAME.format(split=split)),
        )
        for split, checksum in checksums.items()
    )
