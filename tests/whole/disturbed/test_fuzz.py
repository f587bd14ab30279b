"""Whatever is done to a file from outside, it is read, or refused in one line.

`FUZZ_EXAMPLES=50000 pytest tests/whole/disturbed/test_fuzz.py` draws that many files anew. Without
it they are the same ones every time.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import fuzz_targets
import pytest
from fuzz_mutations import Content, mutated_bytes, mutated_json, swept_json
from fuzz_pickles import mutated_archive, mutated_older_file, mutated_pickle
from fuzz_process import Reader
from fuzz_targets import NO_FILES, TARGETS, Target
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

N_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2100"))
SETTINGS = settings(
    max_examples=max(1, N_EXAMPLES // len(TARGETS)),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

FORMS = {
    "json": mutated_json,
    "pickle": mutated_pickle,
    "archive": mutated_archive,
    "older": mutated_older_file,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a valid file of every kind."""
    folder = tmp_path_factory.mktemp("fuzz") / "valid"
    fuzz_targets.make(folder)
    return folder


@pytest.fixture(scope="module")
def reader(base: Path) -> Iterator[Reader]:
    """Yield the process that reads."""
    reader = Reader(base)
    yield reader
    reader.close()


def mutated(target: Target, data: bytes) -> st.SearchStrategy[bytes]:
    """Return what may become of a valid file."""
    if target.form == "bytes":
        return mutated_bytes(data).map(Content)
    by_form = FORMS[target.form](data)
    return st.one_of(by_form, by_form, mutated_bytes(data)).map(Content)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.file)
def test_a_file_is_read_or_refused_in_one_line(target: Target, base: Path, reader: Reader) -> None:
    data = (base / target.file).read_bytes()

    @SETTINGS
    @given(mutated(target, data), st.booleans())
    def reads(changed: bytes, sealed: bool) -> None:
        outcome = reader.read(TARGETS.index(target), changed, sealed=sealed)
        if outcome.problem:
            found = base.parent / f"found-{target.file.replace('/', '-')}"
            found.write_bytes(changed)
            pytest.fail(f"{target.file} as in {found}: {outcome.problem}")

    reads()


@pytest.mark.parametrize(
    "target", [t for t in TARGETS if t.form == "json"], ids=lambda target: target.file
)
def test_a_field_of_every_odd_value_is_taken_or_refused(
    target: Target, base: Path, reader: Reader
) -> None:
    for content in swept_json((base / target.file).read_bytes()):
        outcome = reader.read(TARGETS.index(target), content, sealed=True)
        assert not outcome.problem, (content[:500], outcome.problem)


#: What was found, and is refused since.
FOUND = [
    (
        "corpus/train.docs.npy",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': )2,), }"
        + b" " * 60
        + b"\n"
        + bytes(16),
    ),
    ("deepspeed/ds.json", b'{"train_batch_size": 1e999}'),
    (
        "bytes/vocabulary.json",
        b'{"format": "txl-vocabulary", "version": 1, "vocabulary": '
        b'{"kind": "bytes", "symbols": "", "unk": false}}',
    ),
]


@pytest.mark.parametrize(("file", "content"), FOUND, ids=[file for file, _ in FOUND])
def test_what_was_found_is_refused(file: str, content: bytes, reader: Reader) -> None:
    (target,) = [i for i, target in enumerate(TARGETS) if target.file == file]
    outcome = reader.read(target, content, sealed=True)
    assert not outcome.problem, outcome.problem
    assert outcome.refused


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.file)
def test_the_valid_file_is_read(target: Target, base: Path, reader: Reader) -> None:
    data = (base / target.file).read_bytes()
    outcome = reader.read(TARGETS.index(target), data, sealed=True)
    assert not outcome.problem
    assert not outcome.refused


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_read_as_missing_or_refused(
    kind: str, base: Path, reader: Reader
) -> None:
    for i, target in enumerate(TARGETS):
        outcome = reader.read(i, kind, sealed=False)
        assert not outcome.problem, (target.file, outcome.problem)
