"""Kernels that compute row by row: norms, biases, ReLU, dropout, softmax, forgetting."""
