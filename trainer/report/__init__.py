"""Tables and pages about runs, made from the files of their directories alone."""
