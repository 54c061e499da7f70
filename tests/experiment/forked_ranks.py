"""Ranks in children of the test's own process, over gloo on loopback: none of them imports torch again."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from deqrun.errors import Interrupted
from deqrun.experiment.ranks import joined
from deqrun.settings.place import Place


def in_forked_ranks(count: int, do: Callable[[int], Any], folder: Path, minutes: float = 1.0) -> list[Any]:
    """`do(rank)` at every rank; what each returned, or the exception that it raised."""
    folder.mkdir(parents=True, exist_ok=True)
    children = [_forked(Place(rank, count, rank, count), do, folder, minutes) for rank in range(count)]
    for child in children:
        os.waitpid(child, 0)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(count)]


def _forked(own: Place, do: Callable[[int], Any], folder: Path, minutes: float) -> int:
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.set_num_threads(1)  # the threads of OpenMP are not forked, and whoever asks for them waits for ever
        # A store in a file would do, but for the ranks' own one no file must be there before.
        with joined(own, dist.FileStore(str(folder / "store"), own.count), minutes):
            end = do(own.rank)
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        if not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        end = error
    finally:
        (folder / f"{own.rank}.pickle").write_bytes(pickle.dumps(end))
        os._exit(0)
