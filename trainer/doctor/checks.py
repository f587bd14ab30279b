"""Things that were tried, and what was found: a line for people, and values for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trainer.track.tables import text_table


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was tried on all ranks."""

    name: str
    told: str
    """The finding, and on which rank if not all found the same."""
    fix: str = ""
    """The way to mend it; empty if nothing is wrong."""

    @property
    def is_well(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.fix


def by_rank(told: Sequence[str]) -> str:
    """Return what ranks found, in their order, with ranks that found the same together."""
    found: dict[str, list[int]] = {}
    for rank, one in enumerate(told):
        found.setdefault(one, []).append(rank)
    if len(found) == 1:
        return told[0]
    return "; ".join(f"{_ranks(ranks)}: {one}" for one, ranks in found.items())


def _ranks(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}-{ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"


def as_text(checks: Sequence[Check]) -> str:
    """Return a table of the checks, and below it what to do, a line each."""
    rows = [("", "tried", "found")]
    rows += [("ok" if check.is_well else "WRONG", check.name, check.told) for check in checks]
    fixes = [f"{check.name}: {check.fix}" for check in checks if check.fix]
    return "\n".join([text_table(rows), *fixes])


def as_json(checks: Sequence[Check]) -> str:
    """Return the checks as JSON."""
    told = [asdict(check) | {"is_well": check.is_well} for check in checks]
    return json.dumps({"is_well": all(check.is_well for check in checks), "checks": told}, indent=2)
