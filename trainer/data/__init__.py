"""From text to a vocabulary, a corpus, its streams and segments."""
