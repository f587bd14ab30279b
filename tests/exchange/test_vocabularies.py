"""Vocabularies and pickles of other trainers are read, and do nothing while they are."""

import io
import pickle
import re
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import foreign_files
import pytest
import torch
from builders import tiny_model
from foreign_files import Attack

from trainer.errors import InputError
from trainer.exchange.importing import import_checkpoint
from trainer.exchange.pickles import read_pickled
from trainer.exchange.vocabularies import read_vocabulary

V = 20
WORDS = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, V))]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Return a whole checkpoint with its vocabulary."""
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
    (tmp_path / "dict.txt").write_text("a 3\nb\u200bc 2\nmadeupword0000 0\n")
    words = read_vocabulary(tmp_path / "dict.txt").to_json()["words"]
    assert words == ["<s>", "<pad>", "<eos>", "<unk>", "a", "b\u200bc", "madeupword0000"]
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


@pytest.mark.parametrize(
    "symbols", [["a"] * 3, ["<eos>", "a b"], ["<eos>", ""], ["<eos>", b"a"], ["<eos>", "\ud800"]]
)
def test_symbols_that_no_text_can_be_made_of_are_refused(tmp_path: Path, symbols: Any) -> None:
    file = tmp_path / "vocab.pkl"
    file.write_bytes(pickle.dumps({"idx2sym": symbols}))
    with pytest.raises(InputError, match="not a vocabulary"):
        read_vocabulary(file)


def test_a_tokenizer_with_objects_of_its_libraries_is_read(tmp_path: Path) -> None:
    file = tmp_path / "vocab.pkl"
    file.write_bytes(pickle.dumps({"idx2sym": WORDS, "pattern": re.compile("x")}))
    assert read_vocabulary(file).to_json()["words"] == WORDS


# What a crafted file is not to reach


def changing(module: str, name: str, state: Any) -> bytes:
    """Return a pickle that sets attributes of a function or class that it names."""
    named = b"c" + module.encode() + b"\n" + name.encode() + b"\n"
    return b"\x80\x02" + named + pickle.dumps(state, 2)[2:-1] + b"b."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch._utils", "_rebuild_tensor_v2"),
        ("collections", "OrderedDict"),
        ("collections", "Counter"),
        ("mem_transformer", "MemTransformerLM"),
        ("builtins", "set"),
    ],
)
@pytest.mark.parametrize("state", [{"evil": 1}, (None, {"__defaults__": ("evil",)})])
def test_a_pickle_cannot_change_what_it_is_read_with(
    tmp_path: Path, module: str, name: str, state: Any
) -> None:
    file = tmp_path / "x.pkl"
    file.write_bytes(changing(module, name, state))
    with pytest.raises(InputError):
        read_pickled(file)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)
    assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")
    torch.save({"x": torch.ones(2)}, tmp_path / "y.pt")
    assert read_pickled(tmp_path / "y.pt")["x"].tolist() == [1, 1]


def test_a_program_is_not_run_also_behind_a_second_table_of_contents(tmp_path: Path) -> None:
    class Program(torch.nn.Module):
        def forward(self) -> int:
            return 1

    plain, hidden = tmp_path / "plain.pt", tmp_path / "hidden.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Program()), str(plain))
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    hidden.write_bytes(plain.read_bytes() + empty.getvalue())
    for file in (plain, hidden):
        with pytest.raises(InputError):
            read_pickled(file)


def test_an_archive_is_not_unpacked_also_with_the_end_of_another_kind(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    secret.chmod(0o600)
    file = tmp_path / "model.pt"
    with tarfile.open(file, "w") as archive:
        link = tarfile.TarInfo("storages")
        link.type, link.linkname, link.mode = tarfile.LNKTYPE, str(secret), 0o777
        archive.addfile(link)
    for end in (b"", b"PK\x05\x06" + bytes(18)):
        file.write_bytes(file.read_bytes() + end)
        with pytest.raises(InputError, match="archive"):
            read_pickled(file)
    assert secret.stat().st_mode & 0o777 == 0o600
