"""deqrun: test-time compute studies of deep equilibrium models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqrun.loading import load_run, sweep_model

__all__ = ["load_run", "sweep_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Each function when it is first asked for: `import deqrun` alone imports nothing else."""
    if name in __all__:
        from deqrun import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'deqrun' has no attribute '{name}'")
