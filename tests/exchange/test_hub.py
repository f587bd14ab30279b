"""`txl export --push-to-hub`: what arrives is what was exported, and refusals are one line."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from builders import tiny_model
from foreign_files import write_kimiyoung
from hub_server import TOKEN, USER, Hub, hub
from saved_checkpoints import contents
from txl_command import exit_code

from trainer.exchange.importing import import_checkpoint

#: What the client's own client says of how it sends a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Push = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    symbols = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, 20))]
    theirs = write_kimiyoung(folder / "theirs", tiny_model(20), symbols)
    return import_checkpoint(theirs, out=folder / "run").run_dir


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Yield the stand-in, which the Hub's client asks; somebody is logged in."""
    with hub() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture
def push(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Push:
    """Export and push; return the exit code and what was said."""

    def _push(name: str, *flags: str) -> tuple[int, str, str]:
        words = ("export", run, "--out", tmp_path / "out", "--push-to-hub", name, *flags)
        code = exit_code(monkeypatch, *words)
        return code, *capsys.readouterr()

    return _push


@pytest.mark.parametrize("form", ["txl", "huggingface", "transformers"])
def test_every_file_arrives_as_it_is(there: Hub, push: Push, tmp_path: Path, form: str) -> None:
    code, out, err = push("mine", "--as", form)
    assert err == ""
    assert code == 0
    assert out.splitlines()[-1] == f"{there.url}/{USER}/mine: pushed"
    local = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert there.files[f"{USER}/mine"] == local
    assert list(there.large.values()) == [local["model.safetensors"]]
    assert there.repositories[f"{USER}/mine"]["visibility"] == "private"


def test_a_repository_that_is_there_gets_another_commit(
    there: Hub, push: Push, tmp_path: Path
) -> None:
    assert push("others/mine", "--public")[0] == 0
    before = there.files["others/mine"].pop("config.json")
    (tmp_path / "out").rename(tmp_path / "first")
    assert push("others/mine")[0] == 0
    assert there.files["others/mine"]["config.json"] == before
    assert list(there.repositories) == ["others/mine"]
    assert there.repositories["others/mine"]["visibility"] == "public"


@pytest.mark.parametrize("name", ["a/b/c", "two words", "mine.git", "a..b", "x" * 200, ""])
def test_a_name_that_can_be_no_repository_is_refused(
    there: Hub, push: Push, tmp_path: Path, name: str
) -> None:
    code, _, err = push(name)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "no name of a repository" in err
    assert err.endswith("give NAME or USER/NAME\n")
    assert there.asked == []
    assert not (tmp_path / "out").exists()


def test_nothing_is_exported_for_nobody(
    there: Hub, push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = push("mine")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "answers 401, " in err
    assert "hf_wrong" not in err
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = push("mine")
    assert code == 2
    assert err == (
        "error: --push-to-hub mine: nobody is logged in: log in with `hf auth login`, or set "
        "HF_TOKEN to a token that may write\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_hub_that_is_not_there_is_named(
    there: Hub, push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = push("mine")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "http://127.0.0.1:9 cannot be reached" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("end", ["/create", "/preupload/main", "/objects/batch", "/commit/main"])
def test_what_is_refused_later_leaves_the_folder(
    there: Hub, push: Push, tmp_path: Path, end: str
) -> None:
    there.refuses[end] = 403
    code, _, err = push("mine")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "out is written, but not pushed to mine: " in err
    assert f"; then hf upload mine {tmp_path / 'out'}" in err
    assert "model.safetensors" in contents(tmp_path / "out")


def test_without_the_client_it_says_what_to_install(
    push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, err = push("mine")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.endswith("install the extra hub (pip install huggingface_hub)\n")
    assert not (tmp_path / "out").exists()


def test_public_alone_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "export", run, "--out", tmp_path / "out", "--public") == 2
    assert "--public is for --push-to-hub NAME" in capsys.readouterr().err
