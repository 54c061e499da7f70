"""Running figures of an epoch, for the progress bar and for train.jsonl."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from deqrun.experiment.evaluate import Evaluation
from deqrun.experiment.ranks import gathered, several
from deqrun.experiment.training.objective import Forward
from deqrun.records.rows import Epoch, Step
from deqrun.solvers.device import to_host, wide

HELD = 64
"""Steps whose figures stay on an accelerator until they are read together, unless a row or the bar needs them."""


class EpochMeter:
    """Per-sample and per-step figures of one epoch.

    Figures stay on the device on which they were made. They come to the host in one copy, every 64 steps and whenever
    one is asked for, so that the host hardly waits for an accelerator. With several ranks the figures of all are put
    together there: `add`, `step`, `epoch` and `state_dict` are for all ranks at once, the bar for any by itself.
    """

    def __init__(self) -> None:
        self._steps: dict[str, list[Tensor]] = {}  # on the host, by name: one tensor for each step that has it
        self._waiting: list[dict[str, Tensor]] = []  # of the latest steps, on the device
        self._shown = -math.inf

    def add(self, made: Forward, norm: Tensor) -> None:
        """Take in one step, after its backward pass; norm is the gradient's, over all weights."""
        # Kept by sample, so that a short last batch does not weigh more.
        solution = made.solution
        figures = {
            "loss": made.loss,
            "correct": made.correct,
            "residual": solution.residual,
            "nfe": solution.nfe,
            "converged": solution.converged,
            "norm": norm.detach(),
        }
        # The backward solve, where the gradient is implicit.
        if solution.adjoint is not None:
            figures["adjoint_residual"] = solution.adjoint.residual
            figures["adjoint_nfe"] = solution.adjoint.nfe
            figures["adjoint_converged"] = solution.adjoint.converged
        if made.penalty is not None:
            figures["penalty"] = made.penalty.detach()
        # With an adjoint its solution is the gradient at the state.
        gradient = made.z.grad if solution.adjoint is None else solution.adjoint.z
        if gradient is not None:
            figures["share"], figures["share_of"] = _norms(gradient), torch.tensor(len(gradient))
        # Figures stay on the device: reading each step would make the host wait.
        self._waiting.append(figures)
        if len(self._waiting) >= HELD:
            self._read()

    def _read(self) -> None:
        """Bring to the host what is not there yet, in one copy; with several ranks, the figures of all."""
        # One copy for all that waits; ranks exchange theirs in the same order.
        names = [name for figures in self._waiting for name in figures]
        tensors = [tensor for figures in self._waiting for tensor in figures.values()]
        self._waiting = []
        of_ranks = gathered(to_host(tensors))
        for name, *figures in zip(names, *of_ranks, strict=True):
            self._steps.setdefault(name, []).append(_of_the_batch(name, figures))

    def _all(self, name: str) -> list[Tensor]:
        """A figure of every step that has it, on the host."""
        if self._waiting:
            self._read()
        return self._steps.get(name, [])

    def state_dict(self) -> dict[str, Any]:
        """All figures so far, on the host, for a checkpoint within the epoch."""
        self._all("loss")
        return {name: _packed(tensors) for name, tensors in self._steps.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's figures."""
        self._steps, self._waiting = {name: _unpacked(packed) for name, packed in state.items()}, []

    def show(self, bar: tqdm[Any], words: Callable[[], str]) -> None:
        """Put the line and `words` onto the bar, if the bar is there and about to be drawn.

        Of several ranks it is as of the last step that was read.
        """
        # Of several ranks only figures that all have exchanged are shown: to read is to wait for them.
        known = bool(self._steps) or not several()
        if not bar.disable and known and time.monotonic() - self._shown >= bar.mininterval:
            bar.set_postfix_str(f"{self.line()} {words()}", refresh=False)
            self._shown = time.monotonic()

    def line(self) -> str:
        """The bar's figures: means over the epoch so far; residuals are the medians of the last step."""
        if not several():
            self._all("loss")
        known = self._steps
        text = f"loss {self._mean_loss_known():.3f} acc {_mean(known['correct']):.1%} nfe {_mean(known['nfe']):.0f}"
        text += f" res {_median(known['residual'][-1:]):.0e}"
        adjoint = known.get("adjoint_residual")
        return f"{text} adj {_median(adjoint[-1:]):.0e}" if adjoint else text

    def step(self, step: int, learning_rate: float) -> Step:
        """The row of steps.jsonl of the last step taken in."""
        # The last step alone; the epoch's row is over all steps.
        return Step(
            step=step,
            loss=float(self._all("loss")[-1]),
            accuracy=_mean(self._all("correct")[-1:]),
            learning_rate=learning_rate,
            nfe=_mean(self._all("nfe")[-1:]),
            residual=_median(self._all("residual")[-1:]),
            converged=_mean(self._all("converged")[-1:]),
            grad_norm=float(self._all("norm")[-1]),
        )

    @property
    def mean_loss(self) -> float:
        self._all("loss")
        return self._mean_loss_known()

    def _mean_loss_known(self) -> float:
        """Over the steps that were read."""
        # Each step weighs as many samples as its batch had.
        sizes = [len(correct) for correct in self._steps["correct"]]
        return sum(float(loss) * n for loss, n in zip(self._steps["loss"], sizes, strict=True)) / sum(sizes)

    def epoch(self, epoch: int, step: int, held_out: Evaluation, learning_rate: float, seconds: float) -> Epoch:
        """The epoch's row of train.jsonl."""
        # None where no step had an adjoint solve or a penalty.
        of_adjoint = {"adjoint_nfe": _mean, "adjoint_residual": _median, "adjoint_converged": _mean}
        adjoint = {name: figure(found) if (found := self._all(name)) else None for name, figure in of_adjoint.items()}
        penalties, norms = ([float(value) for value in self._all(name)] for name in ("penalty", "norm"))
        return Epoch(
            epoch=epoch,
            step=step,
            loss=self.mean_loss,
            train_accuracy=_mean(self._all("correct")),
            val_loss=held_out.mean_loss,
            val_accuracy=held_out.accuracy,
            learning_rate=learning_rate,
            nfe=_mean(self._all("nfe")),
            residual=_median(self._all("residual")),
            converged=_mean(self._all("converged")),
            **adjoint,
            jacobian_penalty=sum(penalties) / len(penalties) if penalties else None,
            grad_norm=sum(norms) / len(norms),
            gradient_share=self._largest_share(),
            seconds=seconds,
        )

    def _largest_share(self) -> float | None:
        """Over the batches of full size: in the rest of an epoch one sample may be all there is."""
        pairs = zip(self._all("share_of"), self._all("share"), strict=True)
        # NaN where a whole batch has no gradient.
        shares = [(int(n), float(share)) for n, share in pairs if not math.isnan(float(share))]
        full = max((n for n, _ in shares), default=0)
        return max((share for n, share in shares if n == full), default=None)


def gradient_share(gradient: Tensor) -> float:
    """max_i ‖g_i‖₂ / Σ_i ‖g_i‖₂ of (batch, …): 1 / batch where all samples have the same, 1 where one has all."""
    return float(_share([_norms(gradient)]))


def _norms(gradient: Tensor) -> Tensor:
    """(2,) the largest and the sum of ‖g_i‖₂ over the rows, on the gradient's device; of no rows, 0."""
    norms = torch.linalg.vector_norm(gradient.detach().flatten(1), dim=1, dtype=wide(gradient.device))
    return torch.stack([norms.max() if len(norms) else norms.sum(), norms.sum()])


def _share(norms: Sequence[Tensor]) -> Tensor:
    """`gradient_share` of a batch from `_norms` of its parts; NaN where all is 0."""
    largest, total = torch.stack(list(norms)).unbind(1)
    return largest.max() / total.sum()


def _of_the_batch(name: str, figures: Sequence[Tensor]) -> Tensor:
    """A figure of a step from the figures of its ranks: rows in their order; others are of the whole batch already."""
    # Shares are combined from norms; per-sample figures stand one rank's after another's.
    if name == "share":
        return _share(figures)
    if name == "share_of":
        return torch.stack(list(figures)).sum()
    return torch.cat(list(figures)) if figures[0].dim() else figures[0]


def _mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).double().mean())


def _median(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).median())


def _packed(tensors: list[Tensor]) -> dict[str, Any]:
    """Tensors as one vector, with their shapes: a file of thousands of small ones is slow and large."""
    return {
        "values": torch.cat([tensor.reshape(-1) for tensor in tensors]),
        "shapes": [list(tensor.shape) for tensor in tensors],
    }


def _unpacked(packed: dict[str, Any]) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in packed["shapes"]]
    parts = packed["values"].split(sizes)
    return [part.reshape(shape) for part, shape in zip(parts, packed["shapes"], strict=True)]
