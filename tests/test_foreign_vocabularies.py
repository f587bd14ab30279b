"""Vocabularies and pickles of other trainers are read, and do nothing while they are."""

from pathlib import Path

import foreign_files
import pytest
import torch
from builders import tiny_model
from foreign_files import Attack

from trainer.errors import InputError
from trainer.foreign.importing import import_checkpoint
from trainer.foreign.pickles import read_pickled
from trainer.foreign.vocabularies import read_vocabulary

V = 20
WORDS = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, V))]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A whole checkpoint with its vocabulary."""
    return foreign_files.write_huggingface(tmp_path / "theirs", tiny_model(V), WORDS)


@pytest.mark.parametrize("name", ["vocab.pkl", "cache.pt"])
def test_an_attack_in_a_vocabulary_is_refused_and_does_not_run(
    theirs: Path, tmp_path: Path, name: str
) -> None:
    torch.save({"idx2sym": WORDS, "poison": Attack(tmp_path / "attacked")}, tmp_path / name)
    with pytest.raises(InputError, match="refused"):
        import_checkpoint(theirs, out=tmp_path / "run", vocab=tmp_path / name)
    assert not (tmp_path / "attacked").exists()
    assert not (tmp_path / "run").exists()


def test_vocabularies_of_other_trainers_are_read(tmp_path: Path) -> None:
    pickled = foreign_files.write_pickled_vocabulary(tmp_path / "vocab.pkl", WORDS)
    assert read_vocabulary(pickled).to_json()["words"] == WORDS
    (tmp_path / "dict.txt").write_text("a 3\nb\u00a0c 2\nmadeupword0000 0\n")
    words = read_vocabulary(tmp_path / "dict.txt").to_json()["words"]
    assert words == ["<s>", "<pad>", "<eos>", "<unk>", "a", "b\u00a0c", "madeupword0000"]
    foreign_files.write_pickled_vocabulary(pickled, ["32", "10", "101"])
    found = read_vocabulary(pickled)
    assert (found.kind, found.decode([2, 0, 2])) == ("bytes", "e e")
    foreign_files.write_pickled_vocabulary(pickled, ["_", "e", "t"])
    found = read_vocabulary(pickled)
    assert (found.kind, found.decode([1, 0, 2])) == ("characters", "e t")


def test_a_vocabulary_of_another_size_or_kind_is_refused(theirs: Path, tmp_path: Path) -> None:
    vocab = foreign_files.write_pickled_vocabulary(tmp_path / "vocab.pkl", WORDS[:-1])
    with pytest.raises(InputError, match="19 symbols, the checkpoint's embedding 20"):
        import_checkpoint(theirs, out=tmp_path / "run", vocab=vocab)
    (theirs / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"holds no vocabulary .*--vocab"):
        import_checkpoint(theirs, out=tmp_path / "run")
    foreign_files.write_pickled_vocabulary(vocab, ["ab", "cd"])
    with pytest.raises(InputError, match="neither words with <eos>, nor bytes"):
        read_vocabulary(vocab)


def test_a_plain_torch_file_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    values = {
        "half": torch.ones(2, 3).half(),
        "view": torch.arange(9).view(3, 3)[:, 1],
        "n": [1, "a"],
    }
    for legacy in (False, True):
        torch.save(values, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        found = read_pickled(tmp_path / "x.pt")
        assert found["n"] == [1, "a"]
        assert all(torch.equal(found[key], values[key]) for key in ("half", "view"))  # type: ignore
