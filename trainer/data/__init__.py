"""Text to vocabulary, corpus, streams and segments."""
