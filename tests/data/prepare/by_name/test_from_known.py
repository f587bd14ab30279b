"""Known corpora are, id by id, what the reference makes of them, from any place and in any form."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import serving
from small_corpora import Small, in_three, reference, small, small_texts

from trainer.commands.command_line import parse_command
from trainer.data.corpus import open_corpus
from trainer.data.prepare.by_name.download import checksum_of
from trainer.data.prepare.by_name.from_known import prepare_known
from trainer.data.prepare.by_name.known_corpora import known_corpora, known_corpus
from trainer.data.prepare.from_text import PrepareOptions
from trainer.data.vocabulary.files import SymbolVocabulary, WordVocabulary
from trainer.errors import InputError

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "wikitext2"
NAMES = ("wikitext-103", "wikitext-2", "enwik8", "text8", "ptb")


@pytest.fixture(params=NAMES)
def known(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Small]:
    """Yield each known corpus with a small text, on a server."""
    with serving() as served:
        texts = small_texts(request.param)
        yield small(request.param, served, tmp_path / "packed", texts)


def test_ids_are_those_of_the_reference(known: Small, tmp_path: Path) -> None:
    name = known.corpus.name
    vocabulary, tokens = reference(name, small_texts(name))
    corpus = known.prepare(tmp_path / "out")
    match corpus.vocabulary:
        case WordVocabulary(words=words):
            assert list(words) == vocabulary
        case SymbolVocabulary(symbols=symbols):
            shown = [str(ord(s)) if name == "enwik8" else s.replace(" ", "_") for s in symbols]
            assert shown == vocabulary
    ids = {symbol: i for i, symbol in enumerate(vocabulary)}
    assert list(corpus.splits) == ["train", "valid", "test"]
    for split in corpus.splits.values():
        # What wikitext-103's train lacks is its <unk>.
        expected = [ids.get(token, ids.get("<unk>")) for token in tokens[split.name]]
        assert split.tokens.tolist() == expected, split.name
        assert split.document_starts.tolist() == [0]


def test_words_and_characters_are_counted_as_published_figures_divide(
    known: Small, tmp_path: Path
) -> None:
    corpus = known.prepare(tmp_path / "out")
    text = small_texts(known.corpus.name)
    for name, split in corpus.splits.items():
        if corpus.vocabulary.kind == "words":
            assert split.n_words == split.n_tokens
            assert split.n_characters == len(text[name].decode())
        elif corpus.vocabulary.kind == "bytes":
            part = in_three(text["train"])[name]
            assert split.n_characters == split.n_tokens == len(part) - part.count(b"\n")
            assert split.n_words == len(part.decode(errors="replace").split())
        else:
            assert split.n_characters == split.n_tokens


def test_two_workers_make_the_same_corpus_of_words_and_are_refused_for_others(
    known: Small, tmp_path: Path
) -> None:
    if known.corpus.kind == "words":
        alone = known.prepare(tmp_path / "out").hash
        assert known.prepare(tmp_path / "out", workers=2).hash == alone
    else:
        with pytest.raises(InputError, match="--workers 2: at least 1, and more for words alone"):
            known.prepare(tmp_path / "out", workers=2)
    with pytest.raises(InputError, match="--workers 0: at least 1"):
        known.prepare(tmp_path / "out", workers=0)


def test_a_folder_with_the_files_in_any_form_gives_the_same_corpus(
    known: Small, tmp_path: Path
) -> None:
    downloaded = known.prepare(tmp_path / "out").hash
    known.served.asked.clear()
    forms = [
        [names for file in files for names in [(file.name, *file.other_names)]]
        for files in known.corpus.sources
    ]
    for i, (files, names) in enumerate(zip(known.corpus.sources, forms, strict=True)):
        for j in range(min(map(len, names))):
            folder = tmp_path / f"folder{i}{j}"
            for file, choices in zip(files, names, strict=True):
                path = folder / choices[j]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(known.contents[file])
            corpus = known.prepare(tmp_path / "again", source=folder)
            assert corpus.hash == downloaded
            assert corpus.splits["train"].header.made["from"] == str(folder)
    assert known.served.asked == []


def test_what_was_downloaded_is_kept_beside_the_corpus_and_not_asked_for_again(
    known: Small, tmp_path: Path
) -> None:
    out = tmp_path / "corpora" / "out"
    made = known.prepare(out).splits["valid"].header.made
    files = known.corpus.sources[0]
    assert [asked for asked, _ in known.served.asked] == [f"/{file.name}" for file in files]
    kept = {path.name: path.read_bytes() for path in (out.parent / "downloads").iterdir()}
    assert kept == {file.name: known.contents[file] for file in files}
    assert made["known"] == known.corpus.name
    assert made["files"] == [
        {"name": file.name, "checksum": file.checksum, "urls": list(file.urls)} for file in files
    ]
    known.served.asked.clear()
    known.prepare(out)
    known.prepare(tmp_path / "elsewhere", cache=out.parent / "downloads")
    assert known.served.asked == []


def test_a_damaged_download_is_replaced_and_nothing_is_lost_when_it_cannot_be(
    known: Small, tmp_path: Path
) -> None:
    out, cache = tmp_path / "out", tmp_path / "downloads"
    before = known.prepare(out).hash
    damaged = cache / known.corpus.sources[0][0].name
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1])
    known.served.files[f"/{damaged.name}"] = b"something else"
    with pytest.raises(InputError, match=r"its checksum is sha256:\w+, expected sha256:\w+"):
        known.prepare(out)
    assert (open_corpus(out).hash, damaged.read_bytes()) == (before, good[:-1])
    known.served.files[f"/{damaged.name}"] = good
    assert known.prepare(out).hash == before
    assert damaged.read_bytes() == good


def test_another_text_in_a_folder_is_refused_with_both_sums(known: Small, tmp_path: Path) -> None:
    for i, files in enumerate(known.corpus.sources):
        folder = tmp_path / f"folder{i}"
        folder.mkdir()
        for file in files:
            (folder / file.name).write_bytes(known.contents[file])
        other = folder / files[-1].name
        other.write_bytes(b"another text")
        found = checksum_of(other, like="sha256")
        with pytest.raises(InputError) as refused:
            known.prepare(tmp_path / "out", source=folder)
        expected = f"{other}: its checksum is {found}, expected {files[-1].checksum}"
        assert expected in str(refused.value)
        assert other.read_bytes() == b"another text"
    with pytest.raises(InputError, match=rf"--from \S+: {known.corpus.name} needs .* there"):
        known.prepare(tmp_path / "out", source=tmp_path)
    assert not (tmp_path / "out").exists()


def test_enwik8_says_that_it_drops_line_ends_and_takes_any_prompt(tmp_path: Path) -> None:
    with serving() as served:
        made = small("enwik8", served, tmp_path / "packed", small_texts("enwik8"))
        report = prepare_known(made.corpus, PrepareOptions(out=tmp_path / "out"))
    assert "enwik8: without its line ends, as the published bpc has it" in "\n".join(report.lines())
    vocabulary = open_corpus(tmp_path / "out").vocabulary
    assert vocabulary.decode(vocabulary.encode("bé\nb\r\n")) == "béb\r"


@pytest.mark.data
def test_wikitext2_has_the_tokens_that_everyone_counts(tmp_path: Path) -> None:
    if not DATA.exists():
        pytest.skip("needs wikitext2 in ../shared/data")
    valid, test = ((DATA / f"{split}.txt").read_bytes() for split in ("valid", "test"))
    texts = {"train": valid, "valid": valid, "test": test}
    with serving() as served:
        made = small("wikitext-2", served, tmp_path / "packed", texts)
        corpus = made.prepare(tmp_path / "out")
    assert corpus.splits["valid"].n_tokens == 217_646
    assert corpus.splits["test"].n_tokens == 245_569
    vocabulary, tokens = reference("wikitext-2", texts)
    assert corpus.vocabulary.to_json()["words"] == vocabulary
    ids = {word: i for i, word in enumerate(vocabulary)}
    assert corpus.splits["test"].tokens.tolist() == [ids[token] for token in tokens["test"]]


@pytest.mark.data
def test_the_published_sums_of_wikitext2_are_those_of_its_real_text(tmp_path: Path) -> None:
    if not DATA.exists():
        pytest.skip("needs wikitext2 in ../shared/data")
    for split in ("valid", "test"):
        (tmp_path / f"{split}.txt").symlink_to(DATA / f"{split}.txt")
    (tmp_path / "train.txt").write_text("another text")
    options = PrepareOptions(out=tmp_path / "out")
    with pytest.raises(InputError) as refused:
        prepare_known(known_corpus("wikitext-2"), options, source=tmp_path)
    assert str(refused.value).count("its checksum is") == 1
    assert "train.txt: its checksum is sha1:" in str(refused.value)


def test_every_file_has_a_checksum_and_every_corpus_can_be_downloaded() -> None:
    assert [corpus.name for corpus in known_corpora()] == [*NAMES]
    digits = {"md5": 32, "sha1": 40, "sha256": 64}
    for corpus in known_corpora():
        assert all(file.urls for file in corpus.sources[0])
        for file in (file for files in corpus.sources for file in files):
            algorithm, _, value = file.checksum.partition(":")
            assert len(value) == digits[algorithm]
            int(value, base=16)
    held_out = [corpus.held_out_bytes for corpus in known_corpora()]
    assert held_out == [None, None, 5_000_000, 5_000_000, None]


def test_the_command_knows_the_names_and_refuses_what_does_not_go_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_command(["prepare", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    for arguments, message in (
        (["wikitext103"], r"wikitext103: no such known corpus \(did you mean 'wikitext-103'\?\)"),
        (["ptb", "--train", "a", "--unk"], "--train, --unk: for text of your own; ptb is made"),
        (["ptb", "--from", "a", "--cache", "b"], "give one of them"),
        (["--train", "a", "--cache", "b"], "--from and --cache: for a known corpus"),
        (["ptb", "--from", str(tmp_path)], r"ptb needs ptb\.train\.txt, .* or simple-examples"),
    ):
        with pytest.raises(InputError, match=message):
            parse_command(["prepare", "--out", str(tmp_path / "out"), *arguments]).run()
    assert list(tmp_path.iterdir()) == []
