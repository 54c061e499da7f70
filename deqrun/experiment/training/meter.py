"""Running figures of an epoch, for the progress bar and for train.jsonl."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from deqrun.experiment.evaluate import Evaluation
from deqrun.experiment.training.objective import Forward
from deqrun.records.rows import Epoch, Step


@dataclass
class EpochMeter:
    """Per-sample and per-step figures of one epoch."""

    losses: list[tuple[float, int]] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)
    nfes: list[Tensor] = field(default_factory=list)
    converged: list[Tensor] = field(default_factory=list)
    adjoint_residuals: list[Tensor] = field(default_factory=list)
    adjoint_nfes: list[Tensor] = field(default_factory=list)
    adjoint_converged: list[Tensor] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    shares: list[tuple[int, float]] = field(default_factory=list)

    def add(self, made: Forward, norm: Tensor) -> None:
        """Take in one step, after its backward pass; norm is the gradient's, over all weights."""
        # Sums are kept by sample, so that a short last batch does not weigh more.
        solution = made.solution
        self.losses.append((float(made.loss), len(made.correct)))
        self.correct.append(made.correct.cpu())
        self.residuals.append(solution.residual.cpu())
        self.nfes.append(solution.nfe.cpu())
        self.converged.append(solution.converged.cpu())
        if solution.adjoint is not None:
            self.adjoint_residuals.append(solution.adjoint.residual.cpu())
            self.adjoint_nfes.append(solution.adjoint.nfe.cpu())
            self.adjoint_converged.append(solution.adjoint.converged.cpu())
        if made.penalty is not None:
            self.penalties.append(float(made.penalty.detach()))
        self.norms.append(float(norm))
        # With an adjoint its solution is the gradient at the state.
        gradient = made.z.grad if solution.adjoint is None else solution.adjoint.z
        if gradient is not None and bool(gradient.any()):
            self.shares.append((len(gradient), gradient_share(gradient)))

    def line(self) -> str:
        """The bar's figures: means over the epoch so far; residuals are the medians of the last step."""
        text = f"loss {self.mean_loss:.3f} acc {_mean(self.correct):.1%} nfe {_mean(self.nfes):.0f}"
        text += f" res {_median(self.residuals[-1:]):.0e}"
        if self.adjoint_residuals:
            text += f" adj {_median(self.adjoint_residuals[-1:]):.0e}"
        return text

    def step(self, step: int, learning_rate: float) -> Step:
        """The row of steps.jsonl of the last step taken in."""
        return Step(
            step=step,
            loss=self.losses[-1][0],
            accuracy=_mean(self.correct[-1:]),
            learning_rate=learning_rate,
            nfe=_mean(self.nfes[-1:]),
            residual=_median(self.residuals[-1:]),
            converged=_mean(self.converged[-1:]),
            grad_norm=self.norms[-1],
        )

    @property
    def mean_loss(self) -> float:
        return sum(loss * n for loss, n in self.losses) / sum(n for _, n in self.losses)

    def epoch(self, epoch: int, step: int, held_out: Evaluation, learning_rate: float, seconds: float) -> Epoch:
        """The epoch's row of train.jsonl."""
        return Epoch(
            epoch=epoch,
            step=step,
            loss=self.mean_loss,
            train_accuracy=_mean(self.correct),
            val_loss=held_out.mean_loss,
            val_accuracy=held_out.accuracy,
            learning_rate=learning_rate,
            nfe=_mean(self.nfes),
            residual=_median(self.residuals),
            converged=_mean(self.converged),
            adjoint_nfe=_mean(self.adjoint_nfes) if self.adjoint_nfes else None,
            adjoint_residual=_median(self.adjoint_residuals) if self.adjoint_residuals else None,
            adjoint_converged=_mean(self.adjoint_converged) if self.adjoint_converged else None,
            jacobian_penalty=sum(self.penalties) / len(self.penalties) if self.penalties else None,
            grad_norm=sum(self.norms) / len(self.norms),
            gradient_share=self._largest_share(),
            seconds=seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """All fields, for a checkpoint within the epoch."""
        return {entry.name: _packed(getattr(self, entry.name)) for entry in fields(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the fields of a checkpoint."""
        for name, value in state.items():
            setattr(self, name, _unpacked(value))

    def _largest_share(self) -> float | None:
        """Over the batches of full size: in the rest of an epoch one sample may be all there is."""
        full = max((n for n, _ in self.shares), default=0)
        return max((share for n, share in self.shares if n == full), default=None)


def gradient_share(gradient: Tensor) -> float:
    """max_i ‖g_i‖₂ / Σ_i ‖g_i‖₂ of (batch, …): 1 / batch where all samples have the same, 1 where one has all."""
    norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64)
    return float(norms.max() / norms.sum())


def _mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).double().mean())


def _median(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).median())


def _packed(value: Any) -> Any:
    """A list of vectors as one vector and their lengths: a file of thousands of small tensors is slow and large."""
    if isinstance(value, list) and value and all(isinstance(part, Tensor) and part.dim() == 1 for part in value):
        return {"vectors": torch.cat(value), "lengths": [len(part) for part in value]}
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"vectors", "lengths"}:
        return list(value["vectors"].split(value["lengths"]))
    return value
