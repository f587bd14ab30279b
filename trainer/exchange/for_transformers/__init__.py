"""A model for transformers from 5.3 on: its code, its configuration and its tokenizer."""
