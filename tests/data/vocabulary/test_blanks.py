"""White space that words do not tell is counted as a reader of single characters would."""

import re
import sys

from hypothesis import given
from hypothesis import strategies as st

from trainer.data.vocabulary.blanks import n_untold_blanks

SPACE_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=[^\S\n\r]*\S)")


def naive(text: str, *, starts_document: bool) -> int:
    told = SPACE_BETWEEN_WORDS.findall(text if starts_document else f"x{text}")
    return sum(map(str.isspace, text)) - text.count("\n") - len(told)


@given(
    text=st.text(st.sampled_from("ab   \n\r\t\x0b\x1c\x85\u00a0\u2028\u3000é\U00010348")),
    starts_document=st.booleans(),
)
def test_blanks_are_counted_as_one_by_one(text: str, starts_document: bool) -> None:
    assert n_untold_blanks(text, starts_document=starts_document) == naive(
        text, starts_document=starts_document
    )


def test_every_blank_of_unicode_is_known() -> None:
    blanks = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    assert all(
        n_untold_blanks(f"a\n{blank}b", starts_document=True) for blank in blanks if blank != "\n"
    )
    assert n_untold_blanks("".join(blanks), starts_document=True) == len(blanks) - 1
