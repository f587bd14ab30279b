"""The best rate of a grid that goes on until its edges are not the best."""

from collections.abc import Callable, Iterable


def walk(begin: int, losses_of: Callable[[Iterable[int]], dict[int, float]], *, most: int) -> int:
    """Return the place of the least loss, whose neighbours were both tried.

    Args:
        begin: the first place.
        losses_of: gives the losses of places that are wanted at the same time; a loss that is not
            a number, as of a run that diverged, counts as endless.
        most: the steps to one side after which the search gives up.

    Raises:
        SystemExit: the loss still falls after so many steps.
    """
    losses: dict[int, float] = {}
    best = begin
    while True:
        missing = [place for place in (best - 1, best, best + 1) if place not in losses]
        if not missing:
            return best
        if max(map(abs, (place - begin for place in missing))) > most:
            raise SystemExit(f"the loss still falls at the edge of the grid, {most} steps away")
        losses |= {place: loss for place, loss in losses_of(missing).items()}
        best = min(losses, key=lambda place: (losses[place] != losses[place], losses[place]))
