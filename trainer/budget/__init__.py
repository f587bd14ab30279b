"""What memory a run needs, counted from sizes, and what there is; memory that cannot be had."""
