"""Generated text is told in whole characters, up to a stop, for as long as somebody reads."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from builders import CPU, scoring, words
from hypothesis import given, settings
from hypothesis import strategies as st
from training import ROOT, environment, unmeasured

from trainer.data.vocabulary.files import Vocabulary
from trainer.data.vocabulary.symbols import SymbolVocabulary
from trainer.errors import Exit
from trainer.inference.generate import generate
from trainer.inference.sampling_options import Sampling
from trainer.protocol import Output, Segment

V = 20


class Scripted:
    """A model that says what it was given to say, one token after each it reads."""

    def __init__(self, says: Sequence[int], vocabulary: Vocabulary, n_prompt: int) -> None:
        self.says, self.size, self.n_prompt = says, vocabulary.size, n_prompt

    def empty_memory(self, n_streams: int, **_: Any) -> int:
        return 0

    def __call__(self, segment: Segment, memory: int, **_: Any) -> Output:
        n_read = memory + segment.tokens_BT.shape[1]
        return Output(torch.zeros(()), None, n_read)

    def predict(self, segment: Segment, memory: int, **_: Any) -> tuple[torch.Tensor, int]:
        n_read = memory + segment.tokens_BT.shape[1]
        log_probs = torch.full((*segment.tokens_BT.shape, self.size), -torch.inf)
        log_probs[0, -1, self.says[max(0, n_read - self.n_prompt)]] = 0
        return log_probs, n_read


def said(
    vocabulary: Vocabulary, prompt: str, says: Sequence[int], stop: str | None = None
) -> list[str]:
    """Return the pieces in which the text of the tokens `says` is told."""
    model = Scripted(says, vocabulary, n_prompt=len(vocabulary.encode(prompt)))
    return list(
        generate(
            model,
            vocabulary,
            prompt=prompt,
            scoring=scoring(),
            cutoffs=(),
            dtype=torch.float64,
            sampling=Sampling(n_tokens=len(says), stop=stop),
            device=CPU,
        )
    )


def all_bytes() -> SymbolVocabulary:
    return SymbolVocabulary("bytes", "".join(map(chr, range(256))), unk=False)


@given(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=12))
@settings(deadline=None, max_examples=100)
def test_pieces_are_whole_characters_though_tokens_are_bytes(prompt: str, text: str) -> None:
    pieces = said(all_bytes(), prompt, list(text.encode()))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert pieces == list(text)


@given(st.binary(min_size=1, max_size=20))
@settings(deadline=None, max_examples=100)
def test_nothing_is_lost_of_bytes_that_are_no_text(data: bytes) -> None:
    pieces = said(all_bytes(), "a", list(data))
    assert "".join(pieces) == data.decode("utf-8", "replace")


def test_bytes_that_are_no_text_keep_nothing_waiting() -> None:
    says = [*[0x80] * 50, *"é".encode(), 0xE2, *[0xF0] * 20, *"😀".encode()]
    assert said(all_bytes(), "a", says) == [*["\ufffd"] * 50, "é", *["\ufffd"] * 21, "😀"]


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=4), st.integers(0, 9))
def test_the_text_ends_before_the_first_stop_and_lacks_nothing_else(
    text: str, stop: str, n_after: int
) -> None:
    whole = text + "a" * (n_after + 1)
    assert "".join(said(all_bytes(), "ab", list(whole.encode()), stop)) == whole.partition(stop)[0]


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    assert said(all_bytes(), "x", list(b"abcab-abc"), "abd") == ["abc", "ab-", "abc"]
    assert said(all_bytes(), "x", list(b"xyabcdef"), "cd") == ["x", "y", "a", "b"]
    assert said(all_bytes(), "x", list("aé€".encode()), "€") == ["a", "é"]
    vocabulary = words(V)
    says = vocabulary.encode("w5 w6\nw7 w8")
    assert said(vocabulary, "w3", says, "\nw7") == [" w5", " w6"]
    assert said(vocabulary, "w3", says, "w6\nw9") == [" w5", " ", "w6\nw7", " w8"]
    assert said(vocabulary, "w3 w6\n", says, "w3") == ["w5", " w6", "\n", "w7", " w8"]


def command(trained: Path, *flags: str) -> list[str]:
    """Return `txl generate` of a run, without end."""
    fixed = ["--device", "cpu", "--n-tokens", "1000000000"]
    return [sys.executable, "-m", "trainer", "generate", str(trained), *fixed, *flags]


def started(trained: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(trained, "--prompt", "the miller"),
        env=unmeasured(),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_ctrl_c_ends_the_text_with_its_line(trained: Path) -> None:
    with started(trained) as process:
        assert process.stdout is not None
        begun = process.stdout.read(40)
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate()
    assert process.returncode == Exit.ABORTED
    assert begun.startswith("the miller")
    assert rest.endswith("\n")
    assert "Traceback" not in told


def test_a_reader_that_leaves_ends_it_quietly(trained: Path) -> None:
    with started(trained) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(40).startswith("the miller")
        process.stdout.close()
        assert process.wait() == Exit.UNREAD
        assert process.stderr.read() == ""


def test_a_prompt_that_is_no_text_is_refused(trained: Path) -> None:
    for flags, stdin in [(["--prompt", "-"], b"caf\xe9"), ([b"--prompt", b"caf\xe9"], None)]:
        done = subprocess.run(
            [*command(trained), *flags],
            env=environment(),
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            check=False,
        )
        assert done.returncode == Exit.BAD_INPUT
        assert done.stdout == b""
        assert done.stderr.decode().startswith("error: the prompt is not UTF-8")


def test_words_follow_the_prompt_and_each_other_with_spaces_between() -> None:
    vocabulary = words(V)
    says = vocabulary.encode("w5 w6\nw7")
    assert said(vocabulary, "w3 w4", says) == [" w5", " w6", "\n", "w7"]
    assert said(vocabulary, "w3\n", says)[0] == "w5"
