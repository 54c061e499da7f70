"""deqrun: test-time compute studies of deep equilibrium models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqrun.loading import load_run

__all__ = ["load_run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_run` when it is first asked for: `import deqrun` alone imports nothing else."""
    if name == "load_run":
        from deqrun.loading import load_run

        return load_run
    raise AttributeError(f"module 'deqrun' has no attribute '{name}'")
