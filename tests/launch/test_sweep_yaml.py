"""What wandb's own agent makes of launch/sweep.yaml is read as it is meant."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from training import ROOT
from wandb import wandb_agent

from trainer.config.command_line.arguments import TrainArguments, parse_train

SWEEP: dict[str, Any] = yaml.safe_load((ROOT / "launch" / "sweep.yaml").read_text())


@pytest.fixture
def command_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command that an agent of wandb starts for a trial of these values."""
    started: list[list[str]] = []

    class Process:
        last_sigterm_time = None

        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    monkeypatch.chdir(tmp_path)  # it files the values there
    monkeypatch.setattr(os, "environ", dict(os.environ, WANDB_SWEEP_ID="sweep1"))

    def _command_of(values: dict[str, object]) -> list[str]:
        agent = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep1")
        agent._sweep_command = list(SWEEP["command"])
        args = {name: {"value": value} for name, value in values.items()}
        agent._command_run({"run_id": "trial1", "program": SWEEP["program"], "args": args})
        return started.pop()

    return _command_of


def trained(command: list[str]) -> TrainArguments:
    launcher = ["/usr/bin/env", "torchrun", "--standalone", "--nproc-per-node=1", "launch/train.py"]
    assert command[:5] == launcher
    return parse_train(command[5:])


def field_of(arguments: TrainArguments, name: str) -> object:
    value: object = arguments.experiment
    for part in name.split("."):
        value = getattr(value, part)
    return value


def trials() -> list[dict[str, object]]:
    """Each parameter's values beside the first of the others."""
    choices = {
        name: how.get("values") or [how["min"], how["max"]]
        for name, how in SWEEP["parameters"].items()
    }
    first = {name: values[0] for name, values in choices.items()}
    return [{**first, name: value} for name, values in choices.items() for value in values]


@pytest.mark.parametrize("values", trials(), ids=str)
def test_a_trial_of_the_sweep_trains_with_its_values(values, command_of):
    arguments = trained(command_of(values))
    assert arguments.recipe == "quickstart"
    assert {name: field_of(arguments, name) for name in values} == values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optim.lr", 1e-05),
        ("optim.lr", 0.00123456789012345),
        ("train.train_batch_size", 64),
        ("train.same_length", True),
        ("train.same_length", False),
        ("tracking.tensorboard", True),
        ("tracking.group", "it's a group = 1"),
        ("tracking.group", None),
        ("model.cutoffs", [100, 400]),
    ],
)
def test_whatever_a_sweep_may_vary_arrives_as_it_was(name, value, command_of):
    found = field_of(trained(command_of({name: value})), name)
    assert found == (tuple(value) if isinstance(value, list) else value)
