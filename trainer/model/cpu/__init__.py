"""Fast paths on a CPU: autograd functions that keep fewer tensors and read them less often."""
