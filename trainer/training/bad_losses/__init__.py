"""Losses that are not finite or spike: found, kept by stream, gone back from, done again."""
