"""What all studies share: the runs of a study, in what order they are made, and what a question is."""
