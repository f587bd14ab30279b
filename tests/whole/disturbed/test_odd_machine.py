"""What runs on a local disk runs where a file system can do less, and leaves the same behind."""

import errno
import mmap
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from odd_machine import ODDITIES, environment_of, put_on, refusing
from saved_checkpoints import LISTED, save
from training import ROOT, Case, losses

from trainer.checkpoint import pointers
from trainer.checkpoint.folder import directory, newest_whole, verify
from trainer.checkpoint.sealing import prune
from trainer.data.corpus import open_corpus, verify_corpus
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.data.prepare.writer import new_corpus_folder
from trainer.errors import InputError


def prepare_from(text: Path, out: Path, words: str) -> None:
    text.write_text(words * 90)
    prepare(PrepareOptions(out=out, train=(text,), overwrite=True))


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_corpus_is_written_and_read_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oddity: str
) -> None:
    text, out = tmp_path / "text", tmp_path / "corpora" / "mine"
    prepare_from(text, out, "a b c d\n")
    wanted = open_corpus(out).hash
    put_on([oddity], monkeypatch.setattr)
    for words in ("e f g h\n", "a b c d\n"):
        prepare_from(text, out, words)
        verify_corpus(out)
    assert open_corpus(out).hash == wanted
    assert [path.name for path in out.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize("ends_first", ["the first", "the second"])
def test_of_two_writers_without_locks_the_second_writes_its_corpus_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_first: str
) -> None:
    put_on(["no locks"], monkeypatch.setattr)
    out = tmp_path / "corpus"
    second = ExitStack()

    def write_first() -> None:
        with new_corpus_folder(out) as folder:
            (folder / "train.bin").write_bytes(b"the first's")
            second.enter_context(new_corpus_folder(out))
            assert not (folder / "train.bin").exists()
            (folder / "train.bin").write_bytes(b"the second's")
            if ends_first == "the second":
                second.close()

    with pytest.raises(InputError, match="another process has begun to write it"):
        write_first()
    second.close()
    assert (out / "train.bin").read_bytes() == b"the second's"
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_where_no_file_is_mapped_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_from(tmp_path / "text", tmp_path / "corpus", "a b c d\n")
    monkeypatch.setattr(mmap, "mmap", refusing(errno.ENODEV))
    with pytest.raises(InputError, match=r"\.bin: its file system maps no files into memory"):
        open_corpus(tmp_path / "corpus")


@pytest.mark.parametrize("oddity", ODDITIES)
def test_checkpoints_come_and_go_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oddity: str
) -> None:
    put_on([oddity], monkeypatch.setattr)
    for step in (1, 2, 2, 3, 4):
        save(tmp_path, step)
        pointers.point(tmp_path, "best", "step-00000001" if step < 3 else "step-00000003")
        prune(tmp_path, keep_last=1)
    assert {path.name for path in tmp_path.iterdir()} == {
        "step-00000003",
        "step-00000004",
        "latest",
        "best",
    }
    assert newest_whole(tmp_path).path == tmp_path / "step-00000004"


def test_all_files_of_a_checkpoint_have_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    wanted = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    path = save(tmp_path, 1)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}
    assert modes == dict.fromkeys(modes, wanted)
    assert modes.keys() == {*LISTED, "manifest.json"}


#: Those that go together; but for fixed permissions, the others are of the same kinds.
TOGETHER = [
    "no locks",
    "folders are not synced",
    "no hard links",
    "no renaming onto files",
    "files are mapped for one process",
]


def run(command: list[str]) -> None:
    """Run a Python command on a machine of all these, whose users let their group read."""
    done = subprocess.run(
        [sys.executable, *command],
        env=environment_of(*TOGETHER),
        umask=0o027,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def odd_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run trained, resumed, scored and exported on an odd machine."""
    folder = tmp_path_factory.mktemp("odd") / "work"
    flags = ["--checkpoint.interval-steps", "2", "--valid.interval-steps", "3"]
    more = ["--train.max-steps", "7", "--allow-change", "train.max_steps", "--profile", "1:2"]
    case = Case(folder / "run", flags=[*flags, "--train.max-steps", "5"])
    train = [str(ROOT / "launch" / "train.py"), *case.argv(corpus)]
    run(train)
    run([*train, *more])
    txl, run_dir = ["-m", "txl_trainer"], str(case.run_dir)
    nats = ["--per-token-text", str(folder / "nats.tsv")]
    run([*txl, "eval", run_dir, "--split", "valid", *nats])
    run([*txl, "export", run_dir, "--out", str(folder / "exported")])
    return folder


def test_a_run_trains_saves_goes_on_and_is_scored_there(odd_run: Path) -> None:
    run_dir = odd_run / "run"
    assert list(losses(run_dir)) == list(range(1, 8))
    assert len(list((run_dir / "evals").iterdir())) == 1
    folder = directory(run_dir)
    best = str(pointers.pointed(folder, "best"))
    names = {path.name for path in folder.iterdir()}
    assert names == {"best", "latest", "step-00000006", "step-00000007", best}
    for path in folder.glob("step-*"):
        verify(path)
    assert [path for path in odd_run.rglob(".*")] == []


def test_every_file_and_folder_has_the_permissions_that_the_umask_says(odd_run: Path) -> None:
    paths = [odd_run, *odd_run.rglob("*")]
    wanted = {path: 0o750 if path.is_dir() else 0o640 for path in paths}
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in paths} == wanted
