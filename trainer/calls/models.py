"""Evaluating and sampling in the process that calls: `trainer.evaluate`, `trainer.generate`."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Literal

from trainer.calls.restoring import restoring
from trainer.distributed import World, choose_device
from trainer.host_cpu import use_cpu_well
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate as evaluated
from trainer.inference.improving.filed import with_filed_settings
from trainer.inference.loading import open_trained
from trainer.inference.sampling_options import Sampling
from trainer.track.opening import track_evaluations
from trainer.track.run_files.results import EvalResult

Device = Literal["auto", "cpu", "cuda"]


def evaluate(
    options: EvalOptions, *, device: Device, environ: MutableMapping[str, str]
) -> list[EvalResult]:
    """Evaluate as `txl eval` does, file and track the results; see `trainer.evaluate`.

    `environ` is the environment of the process.
    """
    with restoring(environ):
        at = choose_device(device, local_rank=0)
        if at.type == "cpu":
            use_cpu_well()
        results = evaluated(options, World(rank=0, world_size=1, local_rank=0, device=at))
        track_evaluations(options.run_dir, environ=environ)
        return results


def generate(
    run: Path,
    *,
    prompt: str,
    sampling: Sampling,
    checkpoint: str,
    device: Device,
    trust: bool,
    environ: MutableMapping[str, str],
) -> str:
    """Return a text that continues `prompt`; see `trainer.generate`."""
    with restoring(environ):
        at = choose_device(device, local_rank=0)
        if at.type == "cpu":
            use_cpu_well()
        trained = open_trained(
            run,
            which=checkpoint,
            precision=None,
            device=at,
            trust=trust,
            second_moments=sampling.dynamic == "rms",
        )
        return "".join(trained.stream(prompt, with_filed_settings(sampling, run, trained)))
