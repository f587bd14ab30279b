"""Fast paths on a CPU: autograd functions that keep less and pass over it less often."""
