"""Transformer-XL; `cpu` and `triton` compute the same, faster on such a device."""
