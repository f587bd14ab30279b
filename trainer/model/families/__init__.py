"""Recurrent models beside Transformer-XL, by the names of `trainer.config.kinds`."""
