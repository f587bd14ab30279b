"""The figures of a text that compare with those of other tokenizers, and why others do not."""

from collections.abc import Mapping

from trainer.data.header import Header
from trainer.data.vocabulary.files import Lost, SymbolVocabulary, TokenizerVocabulary, Vocabulary


def absent_figures(
    lost: Lost | None, vocabulary: Vocabulary, *, n_words: int, n_characters: int
) -> Mapping[str, str]:
    """Return which of `ppl_word` and `bpc` a loss on a text cannot give, with the reasons.

    Both divide the nats of all ids by the text's words or characters. If the ids do not hold all of
    the text, the nats cover less than the text. `ppl_word` is given even if white space is missing.
    Over a vocabulary of words it is also given with unknown words: each counts as one word, as in
    published results.

    Args:
        lost: the characters that the ids do not hold; None if they were not counted.
        vocabulary: the vocabulary that made the ids.
        n_words: words of the text.
        n_characters: characters of the text.
    """
    over_words = vocabulary.kind == "words"
    if vocabulary.kind == "symbols":
        reason = "the vocabulary came with ids: nothing says what is a word or a character"
        return {"ppl_word": reason, "bpc": reason}
    if lost is None:
        reason = (
            "the corpus was prepared by an earlier version, which did not count what its ids "
            "leave out: prepare it again"
        )
        return {"bpc": reason} if over_words else {"ppl_word": reason, "bpc": reason}
    reasons = {}
    if lost.hidden and not over_words:
        reasons["ppl_word"] = (
            f"{lost.hidden:,} of {n_characters:,} characters are unknown, dropped or changed"
        )
    if lost.hidden or lost.blanks:
        reasons["bpc"] = (
            f"{lost.hidden + lost.blanks:,} of {n_characters:,} characters are not told by the "
            f"ids ({lost.blanks:,} of them white space)"
        )
    for name, count in (("ppl_word", n_words), ("bpc", n_characters)):
        if not count:
            reasons[name] = "the text has none, or came as ids"
    return reasons


def lost_characters(header: Header, vocabulary: Vocabulary) -> Lost | None:
    """Return the characters that a split's ids do not hold; None if they were not counted."""
    if header.n_hidden is not None and header.n_blanks is not None:
        return Lost(header.n_hidden, header.n_blanks)
    if isinstance(vocabulary, SymbolVocabulary):
        return Lost(hidden=header.n_unknown)
    if isinstance(vocabulary, TokenizerVocabulary) and vocabulary.is_lossless:
        return Lost()
    return None
