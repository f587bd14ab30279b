"""Fast paths on NVIDIA's GPUs from the A100 on: aligned rows and fused kernels."""
