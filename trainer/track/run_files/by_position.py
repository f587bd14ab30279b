"""The loss by position: how many tokens had been read since memory was empty, in growing bins."""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from trainer.track.measure import Count


def _finite(value: object) -> object:
    """Return None for a number that no curve can show, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class PositionBin(BaseModel):
    """The tokens before which as many had been read as lies in a range."""

    model_config = ConfigDict(frozen=True, strict=True)

    low: Count
    high: Count
    """The greatest number that is inside."""
    n_tokens: Count
    loss: Annotated[float | None, BeforeValidator(_finite)]
    """Mean nats per token."""

    @property
    def label(self) -> str:
        """Return the range as a table shows it."""
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"


class ByPosition(BaseModel):
    """The loss by position over windows of a text, each read from empty memory."""

    model_config = ConfigDict(frozen=True, strict=True)

    window_tokens: Count | None = Field(description="of a whole window; None is the whole text")
    n_windows: Count
    bins: Annotated[list[PositionBin], Field(max_length=64)]

    @property
    def words(self) -> str:
        """Return over what the means are."""
        if self.window_tokens is None:
            return "the whole text" if self.n_windows == 1 else f"{self.n_windows:,} documents"
        return f"{self.n_windows:,} windows of {self.window_tokens:,} tokens"


#: Characters of the longest bar.
_BAR = 32


def position_rows(curves: Sequence[ByPosition], names: Sequence[str]) -> list[list[str]]:
    """Return curves over the same windows as the rows of a table; the last one is drawn as bars.

    A bar begins at the least of all losses. The first row holds the heads.
    """
    losses = [one.loss for curve in curves for one in curve.bins if one.loss is not None]
    least, most = min(losses, default=0.0), max(losses, default=0.0)
    rows = [["tokens read before", "tokens", *(f"loss, {name}" for name in names), ""]]
    for parts in zip(*(curve.bins for curve in curves), strict=True):
        cells = ["-" if part.loss is None else f"{part.loss:.4f}" for part in parts]
        last = parts[-1].loss
        share = 0.0 if last is None or most == least else (last - least) / (most - least)
        bar = "█" * max(1, round(_BAR * share))
        rows.append([parts[0].label, f"{parts[0].n_tokens:,}", *cells, bar])
    return rows
