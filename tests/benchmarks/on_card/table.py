"""The rows of a card as Markdown: where it was measured, what holds, and a table of speed."""

import re
from collections.abc import Iterable

from on_card.rows import Row

HEAD = (
    "tokens/s",
    "ms/step (least to most)",
    "host ms",
    "busy ms",
    "kernels, launches",
    "peak GiB (reserved)",
    "planned GiB",
    "predicted ms",
    "measured / predicted",
)


def markdown(rows: Iterable[Row]) -> str:
    """Return all that is worth a place in the README; of equal rows the last counts."""
    found: dict[str, dict[str, Row]] = {}
    for one in rows:
        found.setdefault(one.part, {})[one.name] = one
    where = ", ".join(f"{name} {_text(one)}" for name, one in found.get("environment", {}).items())
    speed = {part: rows for part, rows in found.items() if "ms/step" in rows}
    lines = [where, ""]
    if speed:
        lines += [f"| | {' | '.join(HEAD)} |", f"|---|{'---|' * len(HEAD)}"]
        lines += [_speed_line(part, rows, found) for part, rows in speed.items()]
        lines.append("")
    lines += ["| checked or measured | | |", "|---|---|---|"]
    for part, named in found.items():
        if part in ("environment", "seconds"):
            continue
        told = [one for name, one in named.items() if part not in speed or not one.ok]
        lines += [_line(one) for one in told]
    return "\n".join(lines)


def _line(one: Row) -> str:
    failed = "" if one.ok else "**failed**: "
    return f"| {one.part} | {one.name} | {failed}{_text(one)} |".replace("\n", " ")


def _text(one: Row) -> str:
    if isinstance(one.value, str):
        return one.value.replace("|", "\\|")
    return f"{one.value:,.0f}" if abs(one.value) >= 1000 else f"{one.value:,.4g}"


def _speed_line(part: str, rows: dict[str, Row], found: dict[str, dict[str, Row]]) -> str:
    def number(name: str, form: str) -> str:
        return form.format(rows[name].value) if name in rows else "–"

    ms = f"{number('ms/step', '{:.1f}')} ({number('ms/step, least', '{:.1f}')} to "
    predicted = _predicted_ms(rows, found)
    cells = [
        number("tokens/s", "{:,.0f}"),
        f"{ms}{number('ms/step, most', '{:.1f}')})",
        number("host ms/step", "{:.1f}"),
        number("busy ms/step", "{:.1f}"),
        f"{number('kernels/step', '{:,.0f}')}, {number('launches/step', '{:,.0f}')}",
        f"{number('peak GiB', '{:.1f}')} ({number('reserved GiB', '{:.1f}')})",
        number("planned GiB", "{:.1f}"),
        "–" if predicted is None else f"{predicted:.1f}",
        "–" if predicted is None else f"{float(rows['ms/step'].value) / predicted:.2f}",
    ]
    return f"| {part} | {' | '.join(cells)} |"


def _predicted_ms(rows: dict[str, Row], found: dict[str, dict[str, Row]]) -> float | None:
    """Return the time predicted for the card, if its name says which of those predicted it is."""
    card = str(found["environment"]["card"].value) if "card" in found.get("environment", {}) else ""
    recipe = rows["predicted as"].value if "predicted as" in rows else None
    for name, one in found.get("prediction", {}).items():
        of_recipe, _, of_card = name.rpartition(", ")
        if of_recipe == recipe and re.search(rf"\b{of_card}\b", card):
            return float(one.value)
    return None
