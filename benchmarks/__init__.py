"""One module for each claim of speed: our path beside a plain one, in the same run."""
