"""The checks of `txl check-model`: whether a model holds to the Protocol, or how not."""
