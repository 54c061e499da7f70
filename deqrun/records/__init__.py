"""Records: what a run folder holds, how it is written, and how it is read. Imports no torch.

`reading.read_run(folder)` gives a `run.RunRecord`; `writing.RunFolder` writes one.
"""
