"""DeepSpeed behind one seam, and our own optimizers, schedules and handling of gradients."""
