"""Records: the content of a run folder, written and read. Imports no torch.

`reading.read_run(folder)` gives a `run.RunRecord`; `writing.RunFolder` writes one.
"""
