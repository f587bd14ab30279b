"""A result has the same digits wherever it is told: each place rounds the number of its record."""

import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from builders import lone_world
from training import Case, run_cases
from wandb_reader import read_offline

from trainer import read_metrics
from trainer.budget.activations import PassSize
from trainer.budget.flops import per_token
from trainer.budget.sizes import Weights
from trainer.data.corpus import open_corpus
from trainer.exchange.exporting import export
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.inference.source import read_source
from trainer.inference.texts.files import score_files
from trainer.inference.texts.options import ScoreOptions
from trainer.report.page.view import view
from trainer.report.summary import read_run_or_reason
from trainer.report.table import report
from trainer.track.perplexity import perplexity
from trainer.track.run_files.status import read_status

#: So low that a share of it has digits.
PEAK_TFLOPS = 0.01


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose last validation is its best."""
    flags = ["--train.max-steps", "12", "--valid.interval-steps", "4", "--tracking.wandb"]
    flags += ["offline", "--tracking.peak-tflops", str(PEAK_TFLOPS)]
    case = Case(tmp_path_factory.mktemp("digits") / "run", flags=flags)
    run_cases([case], corpus=corpus, n_ranks=1)
    return case.run_dir


def printed(pattern: str, text: str) -> str:
    """Return the one number that `pattern` finds."""
    (number,) = set(re.findall(pattern, text))
    return str(number)


def cell(table: str, name: str) -> str:
    """Return the cell under the head `name`, in the first row of a table with that head."""
    lines = table.splitlines()
    (at,) = (i for i, line in enumerate(lines) if f"  {name}  " in line)
    begin = lines[at].index(f"  {name}  ") + 2
    return lines[at + 1][begin:].split()[0]


def test_the_final_perplexity_is_the_same_everywhere(
    run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = read_metrics(run, kind="valid")[-1]
    ppl, loss = final["valid/ppl"], final["valid/loss"]
    assert final["valid/best_loss"] == loss

    status = read_status(run)
    assert status is not None
    assert status.result is not None
    assert status.result["valid/best_loss"] == loss
    assert perplexity(loss) == ppl
    assert [row["valid/ppl"] for row in read_offline(run).rows if "valid/ppl" in row][-1] == ppl

    places = {}
    log = (run / "logs" / "rank-00000.log").read_text()
    places["console, the validation"] = printed(r"step 12/12 \| valid .* \| ppl ([\d.]+)", log)
    places["console, the end"] = printed(r"(?:best|last) valid loss .* ppl ([\d.]+) at", log)
    places["report"] = cell(report([read_run_or_reason(run, now=0.0)]).text, "ppl")
    export(run, out=tmp_path / "out", which="best", form="txl")
    places["card"] = printed(r"\(ppl ([\d.]+)\)", (tmp_path / "out" / "README.md").read_text())
    story = corpus.with_name(f"{corpus.name} texts") / "valid.txt"
    files = (Path(shutil.copy(story, tmp_path)),)
    options = ScoreOptions(run_dir=run, files=files)
    scored = score_files(options, device=lone_world().device, stdin=None)
    places["score"] = cell(scored.text(), "ppl")
    capsys.readouterr()
    evaluate_run(EvalOptions(run_dir=run, split="valid"), lone_world())
    places["eval"] = cell(capsys.readouterr().out, "ppl")

    digits = {place: len(number.partition(".")[2]) for place, number in places.items()}
    assert min(digits.values()) >= 2
    assert places == {place: f"{ppl:.{digits[place]}f}" for place in places}


def test_the_share_of_the_peak_is_the_same_everywhere(run: Path, corpus: Path) -> None:
    records = read_metrics(run, kind="train")
    told = [r["throughput/mfu"] / r["throughput/tokens_per_s_per_device"] for r in records]
    assert told == pytest.approx([flops_per_token(run, corpus) / (PEAK_TFLOPS * 1e12)] * len(told))
    rows = [row["throughput/mfu"] for row in read_offline(run).rows if "throughput/mfu" in row]
    assert rows == [record["throughput/mfu"] for record in records]
    log = (run / "logs" / "rank-00000.log").read_text()
    lines = re.findall(r"tok/s \| mfu ([\d.]+%)", log)
    assert lines == [f"{record['throughput/mfu']:.1%}" for record in records]

    status = read_status(run)
    assert status is not None
    assert status.result is not None
    mfu = f"{status.result['throughput/mfu']:.1%}"
    read = read_run_or_reason(run, now=0.0)
    assert printed(r"tok/s in steps, mfu ([\d.]+%)", log) == mfu
    assert cell(report([read]).text, "mfu") == mfu
    seen = view(read, name="run", anchor="run", draws=False, n_bins=10)
    assert dict(seen.facts)["MFU"] == mfu


def flops_per_token(run: Path, corpus: Path) -> float:
    """Return operations per token, counted from the run's own configuration."""
    experiment = read_source(run, "last").experiment
    weights = Weights.of(experiment.model, open_corpus(corpus).vocabulary.size)
    train = experiment.train
    size = PassSize(n_rows=train.train_batch_size, tgt_len=train.tgt_len, mem_len=train.mem_len)
    split = open_corpus(corpus).splits["train"]
    bounds = [*experiment.model.cutoffs, 1 << 32]
    shares = [
        float(((split.tokens >= low) & (split.tokens < high)).mean())
        for low, high in pairwise(bounds)
    ]
    return per_token(experiment.model, size, tables=weights.tables, shares=[1.0, *shares])


def test_a_device_without_a_known_peak_has_no_share_of_it(trained: Path) -> None:
    assert not any("throughput/mfu" in record for record in read_metrics(trained))
    assert "mfu" not in (trained / "logs" / "rank-00000.log").read_text()
    assert "mfu" not in report([read_run_or_reason(trained, now=0.0)]).text
