"""The passes of a micro step: one operation after another, or as a CUDA graph."""
