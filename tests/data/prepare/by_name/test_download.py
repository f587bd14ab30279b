"""Downloads go on where they broke, and only the published file ever takes the name."""

import fcntl
import hashlib
import random
from pathlib import Path

import pytest
from file_server import serving

from trainer.data.prepare.by_name.download import checksum_of, download
from trainer.errors import InputError

CONTENT = random.Random(0).randbytes(900_000)
SUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
OTHER = CONTENT[:-1] + b"?"
OTHER_SUM = f"sha256:{hashlib.sha256(OTHER).hexdigest()}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "a.zip"


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir())


def test_a_file_is_fetched_into_a_new_folder_in_one_request(path: Path) -> None:
    with serving(files={"/a.zip": CONTENT}) as served:
        download(path, urls=[f"{served.url}/a.zip"], checksum=SUM)
    assert path.read_bytes() == CONTENT
    assert names(path) == ["a.zip"]
    assert served.asked == [("/a.zip", None)]


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_a_checksum_is_by_the_algorithm_it_names(tmp_path: Path, algorithm: str) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    expected = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}"
    assert checksum_of(tmp_path / "a", like=f"{algorithm}:00") == expected


def test_a_connection_that_breaks_is_taken_up_where_it_broke(path: Path) -> None:
    with serving(files={"/a.zip": CONTENT}, break_after=[300_000, 250_000]) as served:
        download(path, urls=[f"{served.url}/a.zip"], checksum=SUM)
    assert path.read_bytes() == CONTENT
    assert [asked for _, asked in served.asked] == [None, "bytes=300000-", "bytes=550000-"]


def test_a_later_call_asks_for_the_rest_alone(path: Path) -> None:
    with serving(files={"/a.zip": CONTENT}, break_after=[300_000, 0]) as served:
        with pytest.raises(InputError, match=r"a\.zip\.part keeps 300,000 bytes: the same command"):
            download(path, urls=[f"{served.url}/a.zip"], checksum=SUM)
        assert names(path) == ["a.zip.part"]
        served.asked.clear()
        download(path, urls=[f"{served.url}/a.zip"], checksum=SUM)
    assert served.asked == [("/a.zip", "bytes=300000-")]
    assert path.read_bytes() == CONTENT
    assert names(path) == ["a.zip"]


def test_what_was_whole_when_the_process_was_killed_is_only_checked(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("a.zip.part").write_bytes(CONTENT)
    with serving(files={"/a.zip": CONTENT}) as served:
        download(path, urls=[f"{served.url}/a.zip"], checksum=SUM)
    assert served.asked == [("/a.zip", f"bytes={len(CONTENT)}-")]
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_of_it_again(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("a.zip.part").write_bytes(CONTENT[:1000])
    with serving(files={"/a.zip": CONTENT}, ranges=False) as served:
        download(path, urls=[f"{served.url}/a.zip"], checksum=SUM)
    assert [asked for _, asked in served.asked] == ["bytes=1000-"]
    assert path.read_bytes() == CONTENT


def test_a_server_that_goes_on_elsewhere_is_not_believed(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("a.zip.part").write_bytes(CONTENT[:1000])
    with (
        serving(files={"/a.zip": CONTENT}, wrong_range=True) as served,
        pytest.raises(InputError, match="does not go on from byte 1,000"),
    ):
        download(path, urls=[f"{served.url}/a.zip"], checksum=SUM)
    assert path.with_name("a.zip.part").read_bytes() == CONTENT[:1000]


def test_a_beginning_of_another_file_does_not_spoil_the_download(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("a.zip.part").write_bytes(b"?" * 1000)
    with serving(files={"/a.zip": CONTENT}) as served:
        download(path, urls=[f"{served.url}/a.zip"], checksum=SUM)
    assert [asked for _, asked in served.asked] == ["bytes=1000-", None]
    assert path.read_bytes() == CONTENT


def test_another_file_than_the_published_one_is_refused_with_both_sums(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"what was there")
    with (
        serving(files={"/a.zip": OTHER}) as served,
        pytest.raises(InputError, match=rf"/a\.zip: its checksum is {OTHER_SUM}, expected {SUM}"),
    ):
        download(path, urls=[f"{served.url}/a.zip"], checksum=SUM)
    assert path.read_bytes() == b"what was there"
    assert names(path) == ["a.zip"]


def test_the_next_url_is_tried_after_one_that_has_nothing_or_something_else(path: Path) -> None:
    with serving(files={"/other": OTHER, "/a.zip": CONTENT}) as served:
        urls = [f"{served.url}/{name}" for name in ("none", "other", "a.zip", "never")]
        download(path, urls=urls, checksum=SUM)
    assert [asked for asked, _ in served.asked] == ["/none", "/other", "/a.zip"]
    assert path.read_bytes() == CONTENT


def test_no_network_and_no_file_are_one_error_that_names_every_url(path: Path) -> None:
    with serving() as served:
        there = f"{served.url}/a.zip"
    with serving() as served:
        urls = [there, f"{served.url}/a.zip"]
        with pytest.raises(InputError) as refused:
            download(path, urls=urls, checksum=SUM)
    message = str(refused.value)
    assert f"{urls[0]}: [Errno 111] Connection refused" in message
    assert f"{urls[1]}: HTTP Error 404: Not Found" in message
    assert "--from" in message
    assert "\n" not in message
    assert names(path) == []


def test_two_processes_do_not_write_one_file(path: Path) -> None:
    path.parent.mkdir()
    with path.with_name("a.zip.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"a\.zip\.part: another process is downloading it"):
            download(path, urls=[], checksum=SUM)
