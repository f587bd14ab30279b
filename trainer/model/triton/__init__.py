"""Fast paths on NVIDIA GPUs, A100 or newer: aligned rows and fused kernels."""
