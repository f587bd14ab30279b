"""The command ``txl plan``, which is also a training's ``--dry-run`` without a corpus.

Heavy imports wait until the command runs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import InputError

if TYPE_CHECKING:
    from trainer.budget.sizes import Words
    from trainer.config.command_line.plan import PlanArguments
    from trainer.config.deepspeed.file import ResolvedDs


@dataclass(frozen=True)
class Plan:
    """Tell what a training needs and sends on other machines, without a corpus or a GPU."""

    argv: tuple[str, ...]
    """a recipe, --gpus, --gpu-memory, --deepspeed-config, flags of fields"""

    def run(self) -> None:
        """Print the plan."""
        from trainer.config.command_line.plan import parse_plan

        tell(parse_plan(self.argv))


def tell(arguments: "PlanArguments") -> None:
    """Print a plan.

    Raises:
        InputError: there is no such file, or something does not fit.
    """
    from trainer.budget.forecast import Machine, forecast
    from trainer.budget.told import as_json, text

    words, n_tokens = _words(arguments)
    flops_per_s, bytes_per_s = arguments.rates
    found = forecast(
        arguments.experiment,
        words,
        Machine(
            n_devices=arguments.gpus,
            on_gpu=arguments.device == "cuda",
            memory_gib=arguments.gpu_memory,
            flops_per_s=flops_per_s,
            bytes_per_s=bytes_per_s,
        ),
        files=_files(arguments),
        n_tokens=n_tokens,
    )
    if arguments.json:
        print(json.dumps(as_json(found), indent=2))
        return
    max_steps = arguments.experiment.train.max_steps
    print(text(found, name=arguments.recipe, max_steps=max_steps))


def _files(arguments: "PlanArguments") -> "dict[str, ResolvedDs]":
    """Return the file that is asked for, or all packaged ones that the recipe can be trained with.

    Raises:
        InputError: the recipe can be trained with none of them.
    """
    from trainer.config.deepspeed.file import load_ds_config, packaged_names, resolve

    given, experiment = arguments.deepspeed_config, arguments.experiment
    found, refusals = {}, []
    for name in packaged_names() if given is None else [given]:
        raw = load_ds_config(name)
        try:
            found[name] = resolve(raw, experiment, world_size=arguments.gpus, where=name)
        except InputError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return found


def _words(arguments: "PlanArguments") -> "tuple[Words, int | None]":
    """Return the vocabulary and the tokens of the corpus, or of the text that a recipe is for."""
    from trainer.budget.check import words_of
    from trainer.budget.texts import text_of, usual_words
    from trainer.data.corpus import open_corpus
    from trainer.model.build import check_cutoffs

    model = arguments.experiment.model
    if arguments.data is not None:
        corpus = open_corpus(arguments.data)
        if "train" not in corpus.splits:
            raise InputError(f"{corpus.path} has no train split: prepare it with --train")
        check_cutoffs(model, corpus.vocabulary.size)
        return words_of(model, corpus), corpus.splits["train"].n_tokens
    usual = text_of(arguments.recipe)
    if usual is None and arguments.vocabulary is None:
        raise InputError(
            f"{arguments.recipe} does not say how many words its text has: give --vocabulary, or "
            "a corpus as --data"
        )
    size, n_tokens = usual or (0, None)
    if arguments.vocabulary is not None:
        size = arguments.vocabulary
    check_cutoffs(model, size)
    return usual_words(model, size), arguments.tokens or n_tokens


def told_of_dry_run(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Print the plan of a training command that has ``--dry-run`` but no corpus, once.

    The plan is for the launcher's ranks and this machine's devices. Return whether the command is
    such a command.

    Raises:
        InputError: the command cannot be read.
    """
    from trainer.config.command_line.plan import parse_dry_run

    if not {"--dry-run", "--dry_run"} & set(argv):
        return False
    from trainer.launchers import complete_environ, is_first_task

    full = complete_environ(environ)
    arguments = parse_dry_run(argv, n_ranks=int(full["WORLD_SIZE"]))
    if arguments is not None and is_first_task(environ):
        tell(arguments)
    return arguments is not None
