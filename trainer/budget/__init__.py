"""The memory that a run needs, counted from sizes, held against the memory that there is."""
