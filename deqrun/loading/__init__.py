"""A run from Python: its records, figures, and its model.

    from deqrun import load_run

    run = load_run("outputs/train/mine")
    answer = run.model()(x, max_iter=32)

and a run of a model that Python code has at hand: `sweep_model(model, "dataset=digits")`.

Reading a run executes nothing in its folder. PyTorch is imported when `model()` is called.
"""

from deqrun.loading.frames import KINDS
from deqrun.loading.given import sweep_model
from deqrun.loading.run import LoadedRun, NotebookFigure, load_run

__all__ = ["KINDS", "LoadedRun", "NotebookFigure", "load_run", "sweep_model"]
