"""The command `txl check-model`. Heavy imports wait until it runs."""

import os
from dataclasses import dataclass

from trainer.errors import Exit


@dataclass(frozen=True)
class CheckModel:
    """Check whether a model holds to the Protocol: a table, and the smallest input where not."""

    argv: tuple[str, ...]
    """package:build, a packaged model or a recipe; --fast, --json, flags of fields"""

    def run(self) -> Exit:
        """Print a row for each check as soon as it is known, or all as JSON.

        Raises:
            InputError: the model cannot be built.
        """
        from trainer.config.command_line.check_model import parse_check

        arguments = parse_check(self.argv)
        from trainer.conformance.all_checks import all_checks
        from trainer.conformance.told import as_json, row, summary
        from trainer.distributed import choose_device
        from trainer.host_cpu import use_cpu_well

        device = choose_device(arguments.device, local_rank=0)
        if device.type == "cpu":
            use_cpu_well()
        results = []
        for checked in all_checks(
            arguments.experiment, fast=arguments.fast, device=device, environ=os.environ
        ):
            results.append(checked)
            if not arguments.json:
                print(row(checked), flush=True)
        print(as_json(results) if arguments.json else summary(results))
        return Exit.DONE if all(one.holds for one in results) else Exit.UNFIT
