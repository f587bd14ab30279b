"""`txl lm-eval`: lm-eval's own command line, in which the model ``txl`` is known."""

import sys
from collections.abc import Sequence

from trainer.exchange.for_lm_eval.arguments import Arguments
from trainer.optional import optional

_HELP = """usage: txl lm-eval WORD …

The command lm_eval with the same words, in which the model txl is known:

  txl lm-eval --model txl --model_args run=RUN --tasks TASK,TASK

txl lm-eval run --help tells of all words. --model_args may say of the model txl, between commas:
"""


def run_lm_eval(argv: Sequence[str]) -> None:
    """Do what the command ``lm_eval`` does with these words; for ``--help`` alone, explain it.

    Raises:
        InputError: lm-eval is not installed, or the model cannot be used as it is asked to.
        SystemExit: lm-eval's own end, after ``--help`` or a wrong word.
    """
    if list(argv) in ([], ["-h"], ["--help"]):
        print("\n".join([_HELP, *_arguments()]))
        return
    harness = optional("lm_eval.__main__", extra="lm-eval", does="run the tasks of lm-eval")
    import trainer.exchange.for_lm_eval.adapter  # noqa: F401  # which makes the name known

    sys.argv = ["txl lm-eval", *argv]  # where lm-eval reads its words
    harness.cli_evaluate()


def _arguments() -> list[str]:
    return [f"  {name:16} {field.description}" for name, field in Arguments.model_fields.items()]
