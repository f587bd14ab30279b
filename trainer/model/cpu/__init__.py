"""What is fast on a CPU: autograd functions that keep less and pass over it less often."""
