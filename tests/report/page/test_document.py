"""The page needs nothing but itself, shows every text as text, and says what it leaves out."""

import json
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reported_runs import OF, make_imported, make_run, read, write_valid
from txl_command import exit_code

from trainer.errors import Exit, InputError
from trainer.report.page import document
from trainer.report.page.curves import TICK_SIZE
from trainer.report.page.document import page, write_page
from trainer.report.page.view import view
from trainer.track.record.metrics import MetricsWriter

HOSTILE = "<script>alert(1)</script>&amp;\x1b[31m\u202egnp.exe\x00\"'<img src=x onerror=alert(1)>"


class Parsed(HTMLParser):
    """Tags, attributes and text of a page, as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.ids, self.links = Counter[str](), list[str](), list[str]()
        self.attributes, self.text = set[str](), ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        named = ("href", "xlink:href", "for")
        self.links += [(value or "").lstrip("#") for name, value in attrs if name in named]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", state="done")


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide matplotlib, which takes its time."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def add_sample(run: Path, text: str) -> None:
    writer = MetricsWriter(run, attempt=2)
    values = {"sample/text": text}
    writer.write("sample", step=61, update=59, n_tokens=61, values=values)
    writer.write("event", step=61, update=59, n_tokens=61, values={"event": text, "reason": [text]})
    writer.close()


def test_a_page_needs_nothing_but_itself(run: Path, tmp_path: Path) -> None:
    for runs in ([run], [run, make_imported(tmp_path / "old")]):
        text = page(read(runs))
        parsed = Parsed(text)
        assert not {"script", "link", "img", "iframe", "object", "image"} & {*parsed.tags}
        assert not re.search(r"https?:|@import|url\((?!#)", text)
        assert not any(name.startswith("on") for name in parsed.attributes)
        assert max(Counter(parsed.ids).values()) == 1
        assert {*parsed.links} <= {*parsed.ids}


def test_it_begins_with_the_result_and_holds_every_part(run: Path) -> None:
    add_sample(run, "once upon a time\n\nthere was")
    (run / "environment.json").write_text(
        json.dumps({"commit": "abc123", "hosts": ["n1", "n2"], "packages": {"torch": "2.13"}})
    )
    parsed = Parsed(page(read([run])))
    text = " ".join(parsed.text.split())
    assert "run reached 7.39 ppl on valid of wt103 at step 40 of 61" in text.split("state")[0]
    for told in (
        "Loss and perplexity by step",
        "by tokens trained on",
        "by hours of training",
        "Throughput: between 1k and 1.06k tokens/s",
        "resumed from a checkpoint (1)",
        "test of wt103 (010101010101)",
        "9.488",
        "there was",
        "abc123",
        "n1, n2",
        "device minutes",
    ):
        assert told in text, told
    assert parsed.tags["svg"] == 3 * 2 + 1


def test_hostile_text_is_text_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / HOSTILE.replace("/", "").replace("\0", "")
    run = make_run(folder, state="failed")
    add_sample(run, HOSTILE)
    for file in ("evals/test.json", "corpus.json"):
        content = (run / file).read_text().replace("wt103", json.dumps(HOSTILE)[1:-1])
        (run / file).write_text(content)
    (run / "command.txt").write_text(HOSTILE.replace("\0", ""))
    (run / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE, "packages": [HOSTILE]}))
    (run / "config.json").write_text(json.dumps({HOSTILE: {HOSTILE: HOSTILE}}))
    for runs in ([run], [run, tmp_path / HOSTILE.replace("\0", "").replace("/", "")]):
        text = page(read(runs))
        parsed = Parsed(text)
        assert not {"script", "img"} & {*parsed.tags}
        assert not {"onerror", "src"} & parsed.attributes
        shown = r"<script>alert(1)</script>&amp;\x1b[31m\u202egnp.exe\x00"
        assert parsed.text.count(shown) >= 2
        assert all(c.isprintable() or c in "\n" for c in text)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # once is enough


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_cannot_be_shown_has_its_reason_on_the_page(run: Path, tmp_path: Path) -> None:
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "metrics.jsonl").write_text('{"schema": 2}\n')
    text = Parsed(page(read([run, tmp_path / "newer"]))).text
    assert "newer cannot be shown" in text
    assert "has schema 2, newer than the 1 known here" in text
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"torn\n{"half')
    (run / "environment.json").write_text("{")
    text = Parsed(page(read([run]))).text
    assert "1 line is torn or no record" in text
    assert "environment.json: not JSON" in text


def test_of_many_runs_only_the_common_picture_is_drawn(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "MOST_DRAWN", 1)
    parsed = Parsed(page(read([run, run])))
    assert parsed.tags["svg"] == 3 * 2
    assert "Pictures of single runs are left out" in parsed.text


@pytest.mark.usefixtures("without_pictures")
def test_a_name_from_right_to_left_turns_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "שלום")
    text = page(read([run]))
    assert re.search(r'<p class="lead"><bdi>שלום</bdi> reached', text)


def test_losses_that_are_not_finite_or_far_away_do_not_hide_the_others(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, attempt=1)
    for step in range(1, 400):
        loss = 1e30 if step == 200 else (float("nan") if step == 300 else 5 - step / 100)
        values = {"train/loss": loss, "optim/loss_scale": 2.0 ** (step % 9)}
        writer.write("train", step=step, update=step, n_tokens=step, values=values)
    write_valid(writer, 400, 800.0, OF)
    writer.close()
    text = page(read([tmp_path]))
    assert "a perplexity beyond numbers" in text
    assert text.count("<use") > 10
    assert "higher than drawn" in text


@pytest.mark.parametrize("n_records", [0, 1])
def test_a_run_of_hardly_any_records_has_a_page(tmp_path: Path, n_records: int) -> None:
    writer = MetricsWriter(tmp_path, attempt=1)
    writer.write("event", step=0, update=0, n_tokens=0, values={"event": "start"})
    for step in range(n_records):
        writer.write("train", step=step, update=0, n_tokens=0, values={"train/loss": 3.0})
    writer.close()
    text = page(read([tmp_path]))
    assert ("<svg" in text) is (n_records > 0)
    assert "</span>validation</li>" not in text
    assert "higher than drawn" not in text


@pytest.mark.usefixtures("without_pictures")
def test_without_matplotlib_the_pictures_are_left_out_and_that_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert exit_code(monkeypatch, "report", run, "--html", tmp_path / "page.html") == Exit.DONE
    parsed = Parsed((tmp_path / "page.html").read_text())
    assert parsed.tags["svg"] == 0
    assert "Pictures are left out: they need matplotlib" in parsed.text
    assert "without pictures: pip install matplotlib" in caplog.text


@pytest.mark.usefixtures("without_pictures")
def test_a_file_that_cannot_be_written_is_refused_with_the_fix(run: Path, tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none" / "page.html", tmp_path / "run" / "config" / "x"):
        with pytest.raises(InputError, match="name another file") as refusal:
            write_page(read([run]), file)
        assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_reading_changes_nothing_in_the_run(run: Path, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        files = (path for path in run.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    write_page(read([run]), tmp_path / "page.html")
    assert state() == before


def test_the_style_sheet_knows_every_colour_that_pictures_use(run: Path) -> None:
    text = page(read([run]))
    used = {*re.findall(r"var\(--([\w-]+)\)", text)}
    light, dark, printed = (
        text.split(part, 1)[1] for part in (":root", "scheme: dark", "@media print")
    )
    for scheme in (light, dark.split("}")[0], printed.split("}")[0]):
        assert used - {"sans", "mono"} <= {*re.findall(r"--([\w-]+):", scheme)}


def test_what_befell_a_run_is_marked_in_its_pictures_and_explained(tmp_path: Path) -> None:
    """Ticks and lines in the colour of the legend, one more for each event, all in sight."""
    run = make_run(tmp_path / "run", state="done")
    seen = view(read([run])[0], name="run", anchor="r", draws=True, n_bins=50)
    assert [(meaning, n) for *_, meaning, n in seen.marks] == [("resumed from a checkpoint", 1)]
    writer = MetricsWriter(run, attempt=2)
    for step, event in ((10, "skip"), (12, "skip"), (20, "spike"), (30, "rollback")):
        writer.write("event", step=step, update=step, n_tokens=step, values={"event": event})
    writer.close()
    marked = view(read([run])[0], name="run", anchor="r", draws=True, n_bins=50)
    assert [n for *_, n in marked.marks] == [1, 1, 1, 2]
    for (_, before), (_, after) in zip(seen.losses, marked.losses, strict=True):
        for old, new in ((before.wide, after.wide), (before.narrow, after.narrow)):
            assert old is not None
            assert new is not None
            ticks = re.findall(r'<use [^>]*y="([\d.]+)"[^>]*var\(--bad\)', new)
            assert len(ticks) == 2
            lower_edge = max(float(y) for y in re.findall(r'<use [^>]*y="([\d.]+)"', new))
            assert float(ticks[0]) + TICK_SIZE / 2 <= lower_edge + 2
            assert new.count("stroke: var(--bad)") - old.count("stroke: var(--bad)") >= 3
