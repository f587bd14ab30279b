"""What the ledger of a card that is not there predicts for the cards that it knows.

The ledger hides GPUs from its process, so nothing else of a card may be in it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from on_card.fields import ON_A_CARD
from on_card.rows import Ask, Row, row


def prediction(_: Ask) -> Iterator[Row]:
    """Yield milliseconds of a captured step, by recipe and card."""
    sys.path.append(str(Path(__file__).parents[1] / "without_card"))
    from ledger import CARDS, step_of

    for recipe in {field.recipe: None for field in ON_A_CARD if field.recipe}:
        costs, _parameters = step_of(recipe)
        for card in CARDS:
            seconds = sum(cost.seconds[card.name] for cost in costs.values())
            yield row("prediction", f"{recipe}, {card.name}", 1e3 * seconds)
