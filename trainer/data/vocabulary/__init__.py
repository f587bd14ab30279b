"""Vocabularies, which give token ids their meaning: words, bytes, characters, subwords."""
