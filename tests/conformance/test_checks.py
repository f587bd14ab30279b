"""Each rule that a model breaks is found by the check of it, with the smallest input."""

import re
import sys
from pathlib import Path

import pytest
import torch
from builders import CPU
from family_models import TOY
from readme_model import write_readme_model

from trainer.config.recipe import ModelConfig
from trainer.conformance.checks import CHECKS, Checked, examined
from trainer.errors import InputError
from trainer.model.build import build_model

SIZES = {"n_layer": 2, "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48}

#: The class of `broken_models`, the check that is to find it, and the input that it is to show.
BROKEN = [
    ("Attached", "state detached", r"^1 stream of 1 token \["),
    ("Aliased", "state not aliased", r"^1 stream of 1 token \["),
    ("InPlace", "no change in place", r"^1 stream of 1 token \["),
    ("ReadsPadding", "padding unread", r"^2 streams of 2 tokens \[\d+ pad \| \d+ \d+\]"),
    ("BatchStatistics", "rows apart", r"^2 streams of 1 token "),
    ("HalfState", "state precise", r"^empty memory$"),
    ("BfloatSum", "state precise", r"^1 stream of \d+ tokens"),
    ("WholeBfloatSum", "state precise", r"^1 stream of \d+ tokens"),
    ("LooksAhead", "causal", r"^1 stream of 2 tokens \["),
    ("HiddenGlobal", "no hidden state", r"^1 stream of 1 token \["),
    ("WrongReach", "reach", r"^segment 3 of a text, warmed by 1 before it"),
    ("CastState", "state not cast", r"^1 stream of 1 token \[\d+\] in fp32"),
    ("CastWhenRead", "state not cast", r"^1 stream of 1 token \[\d+\] in fp32"),
    ("StreamsSecond", "streams first", r"^empty memory of 1 stream$"),
    ("ExtraAsNats", "nats alone", r"^1 stream of 1 token \["),
    ("GrowingState", "shape and dtype constant", r"^1 stream of 1 token \["),
    ("CutState", "cut anywhere", r"^1 stream of 2 tokens \[\d+ \d+\] cut after 1$"),
    ("SpreadsNan", "NaN stays in its stream", r"^2 streams of 1 token "),
    ("PredictsOtherwise", "predict agrees", r"^1 stream of 1 token \["),
    ("SeesTargets", "causal", r"^1 stream of 2 tokens \["),
]


def checked(config: ModelConfig, *names: str) -> dict[str, Checked]:
    return {one.name: one for one in examined(config, device=CPU, names=names or None)}


def of(factory: str, *names: str) -> dict[str, Checked]:
    return checked(ModelConfig(factory=factory), *names)


@pytest.mark.parametrize(("model", "check", "shows"), BROKEN)
def test_a_broken_rule_is_found_by_its_check_with_a_small_input(
    model: str, check: str, shows: str
) -> None:
    finding = of(f"broken_models:build_{model}", check)[check].finding
    assert finding is not None
    assert re.search(shows, finding.input), finding


def test_each_check_finds_a_model() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def findings(results: dict[str, Checked]) -> list[Checked]:
    assert list(results) == list(CHECKS)
    return [one for one in results.values() if not one.holds]


@pytest.mark.parametrize("model", ["Healthy", "Drawing"])
def test_a_healthy_model_passes_all(model: str) -> None:
    assert findings(of(f"broken_models:build_{model}")) == []


@pytest.mark.parametrize(
    "changes",
    [{"token_tables": 1, "pair_rows": 50}, {"norm": "pre", "cutoffs": (8, 20), "div_val": 2}],
)
def test_transformer_xl_passes_all(changes: dict) -> None:
    assert findings(checked(ModelConfig(**SIZES, **changes))) == []


def test_clusters_on_plain_kernels_read_a_segment_without_targets() -> None:
    config = ModelConfig(**SIZES, cutoffs=(8, 20), kernels="plain")
    assert checked(config, "causal")["causal"].holds


@pytest.mark.parametrize("kind", TOY)
def test_the_packaged_kinds_pass_all(kind: str) -> None:
    results = checked(ModelConfig(kind=kind, options=TOY[kind]))
    assert findings(results) == []
    excused = [name for name, one in results.items() if one.excused]
    assert excused == (["cut anywhere"] if kind == "rmt" else [])


def test_the_readmes_model_passes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_readme_model(tmp_path).rename(tmp_path / "checked_lstm.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"width": 16, "depth": 2}
    config = ModelConfig(factory="checked_lstm:build", options=options)
    assert findings(checked(config)) == []
    sys.modules.pop("checked_lstm")


def test_what_one_check_does_to_a_model_no_other_sees() -> None:
    alone = of("broken_models:build_HiddenGlobal", "cut anywhere")["cut anywhere"]
    assert of("broken_models:build_HiddenGlobal")["cut anywhere"] == alone


def test_a_model_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be imported"):
        of("no_such_package:build")


def test_an_error_of_the_model_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(factory="broken_models:build_Healthy")
    kind = type(build_model(config, vocabulary_size=9, seed=0))

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ouch")

    monkeypatch.setattr(kind, "predict", fail)
    finding = checked(config, "predict agrees")["predict agrees"].finding
    assert finding is not None
    assert "ZeroDivisionError: ouch" in finding.seen


def test_generators_of_the_caller_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer

    torch.manual_seed(5)
    expected = torch.randn(2)
    torch.manual_seed(5)
    results = trainer.check_model("broken_models:build_WrongReach", fast=True)
    assert [one.name for one in results if not one.holds] == ["reach"]
    assert torch.equal(torch.randn(2), expected)
