"""A text of a few words, and texts as the pieces of a document."""

from trainer.data.text.pieces import Piece

TEXT = "the cat sat\n\nthe  dog ,\tthe <unk> sat\n"


def document(text: str) -> list[Piece]:
    """Return a document of one piece."""
    return [Piece(text, ends_document=True)]
