"""What a person sees of runs: tables and pages, made from the files of their directories alone."""
