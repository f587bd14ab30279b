"""DeepSpeed behind one seam, and the optimizers, schedules and gradients that are ours."""
