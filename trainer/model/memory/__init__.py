"""The text before a segment as Transformer-XL keeps it, and the part of it that queries see."""
