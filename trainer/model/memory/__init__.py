"""What a Transformer-XL keeps of the text before a segment, and what of it queries may see."""
