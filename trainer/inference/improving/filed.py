"""Settings that an evaluation has tuned and filed, for sampling with the same checkpoint."""

from dataclasses import replace
from pathlib import Path

from trainer.errors import InputError
from trainer.inference.improving.options import ImprovingOptions
from trainer.inference.sampling_options import Sampling
from trainer.inference.trained import TrainedModel
from trainer.track.method import Method
from trainer.track.run_files.results import read_results


def with_filed_settings(sampling: Sampling, run_dir: Path, trained: TrainedModel) -> Sampling:
    """Return a sampling with the settings that it lacks, from the newest result that has them.

    Raises:
        InputError: this checkpoint has no result of the same method with settings that were tuned.
    """
    if not sampling.lacks_settings:
        return sampling
    results = [
        result
        for result in read_results(run_dir).results
        if result.is_of(trained.path.name, trained.weights_hash)
        and result.method is not None
        and _is_asked(result.method, sampling)
    ]
    newest = max(results, key=lambda result: result.date or "", default=None)
    if newest is None or newest.method is None:
        flags = f"--cache {sampling.cache} " if sampling.cache else ""
        flags += f"--dynamic {sampling.dynamic} " if sampling.dynamic else ""
        raise InputError(
            f"no settings for {flags}were tuned for {trained.path.name}: give them, or let "
            f"`txl eval {run_dir} {flags.strip()}` find them"
        )
    cache, dynamic = newest.method.cache, newest.method.dynamic
    if cache is not None and sampling.cache_weight is None:
        sampling = replace(sampling, cache_weight=cache.weight, cache_flatness=cache.flatness)
    if dynamic is not None and sampling.dynamic_rate is None:
        sampling = replace(sampling, dynamic_rate=dynamic.rate, dynamic_decay=dynamic.decay)
    return sampling


def _is_asked(method: Method, options: ImprovingOptions) -> bool:
    """Return whether a method is the one asked for, with tuned settings where some are lacking."""
    states = None if method.cache is None else method.cache.states
    rule = None if method.dynamic is None else method.dynamic.rule
    tuned = [part.tuned_on is not None for part in method.parts]
    return (states, rule) == (options.cache, options.dynamic) and all(tuned)
