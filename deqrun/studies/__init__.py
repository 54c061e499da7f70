"""Studies: make the runs that a question is asked of, ask it, and write the answer."""
