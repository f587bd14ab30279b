"""What token ids mean: words, bytes, characters, subwords."""
