"""Tables of results for papers and spreadsheets: Markdown, LaTeX, CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Literal

from trainer.report.groups import METRICS, Figure, Row
from trainer.track.tables import markdown_table
from trainer.wording import printable

Format = Literal["markdown", "latex", "csv"]

#: Marks a row that was not measured here.
MARK = "†"
_ABOUT = (
    "Mean ± standard deviation over n runs that differ in their seed alone; loss in nats per "
    "token, ppl per token, ppl_word per word and line end, bpc in bits per character."
)
_HEADS = ("run", "n", "of", *METRICS)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "−": r"$-$",
    "…": r"\dots{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def table(rows: Sequence[Row], *, form: Format) -> str:
    """Return a table of results; a row that others published is marked, and says whose it is."""
    writers: dict[Format, Callable[[Sequence[Row]], str]] = {
        "markdown": _markdown,
        "latex": _latex,
        "csv": _csv,
    }
    return writers[form](rows)


def shown(found: Figure | None, *, digits: int) -> str:
    """Return mean and deviation, such as ``24.10 ± 0.08``; nothing for None."""
    if found is None:
        return ""
    mean = f"{found.mean:.{digits}f}"
    return mean if found.deviation is None else f"{mean} ± {found.deviation:.{digits}f}"


def latex_text(text: str) -> str:
    """Return a text that LaTeX sets as it is; characters that it may lack are named."""
    return "".join(
        _LATEX.get(c, c if c.isascii() or _is_latin(c) else f"[U+{ord(c):04X}]")
        for c in printable(text, most=200)
    )


def _is_latin(character: str) -> bool:
    """Return whether every LaTeX sets a character beyond ASCII: the letters of Latin 1."""
    return "À" <= character <= "ÿ" and character.isalpha()


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    cells = []
    for row in rows:
        n = max((found.n for found in row.figures.values()), default=0)
        name = row.name if row.source is None else f"{row.name} {MARK}"
        figures = (shown(row.figures.get(m), digits=digits) for m, digits in METRICS.items())
        cells.append([name, f"{n}" if row.source is None else "", row.of, *figures])
    return cells


def _notes(rows: Sequence[Row]) -> list[str]:
    sources = dict.fromkeys(f"{row.name}: {row.source}" for row in rows if row.source is not None)
    return [f"{MARK} published, not measured here ({'; '.join(sources)})"] if sources else []


def _markdown(rows: Sequence[Row]) -> str:
    return "\n\n".join([markdown_table([_HEADS, *_cells(rows)]), _ABOUT, *_notes(rows)])


def _latex(rows: Sequence[Row]) -> str:
    lines = [
        f"% {_ABOUT}",
        r"\begin{tabular}{lrl" + "r" * len(METRICS) + "}",
        r"\hline",
        f"{' & '.join(map(latex_text, _HEADS))} \\\\",
        r"\hline",
        *(f"{' & '.join(map(latex_text, cells))} \\\\" for cells in _cells(rows)),
        r"\hline",
        *(
            rf"\multicolumn{{{len(_HEADS)}}}{{l}}{{\footnotesize {latex_text(note)}}} \\"
            for note in _notes(rows)
        ),
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _csv(rows: Sequence[Row]) -> str:
    """Return full numbers, each in a column of its own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    parts = ("mean", "deviation", "n")
    heads = [f"{metric}_{part}" for metric in METRICS for part in parts]
    writer.writerow(["run", "of", "published_by", *heads])
    for row in rows:
        cells = [printable(row.name), printable(row.of), row.source or ""]
        for metric in METRICS:
            found = row.figures.get(metric)
            if found is None:
                cells += [""] * len(parts)
                continue
            deviation = "" if found.deviation is None else repr(found.deviation)
            cells += [repr(found.mean), deviation, str(found.n or "")]
        writer.writerow(cells)
    return file.getvalue().rstrip("\n")
