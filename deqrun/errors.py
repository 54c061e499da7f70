"""How a command fails: four exceptions, and sentences with the value given, those allowed, and the nearest."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user can put right; its message is the sentence to print, with exit code 2."""


class Interrupted(Exception):  # noqa: N818  (nothing went wrong: the user stopped the run)
    """The user stopped the run, which was left in order; its message is to be printed, with exit code 130."""


class Unwritable(Exception):  # noqa: N818  (it names what happened)
    """The system refused to write, as on a full disk; its message is to be printed, with exit code 1."""


class RankLost(Exception):  # noqa: N818  (it names what happened)
    """A rank of the run died, or did not answer in time; its message is to be printed, with exit code 1.

    late  whether it did not answer in time
    """

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


LISTED = 16
"""Names that a sentence lists before it says how many more there are: about three terminal lines."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name most like the given one by difflib's ratio; None where nothing is alike.

    A dotted key is compared by its last part, with its siblings first and then with any key, so that `epochs`
    finds `train.epochs`; failing that, by its first part.
    """
    names = list(dict.fromkeys(allowed))
    parent, _, last = given.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == parent}
    anywhere = {name.rpartition(".")[2]: name for name in reversed(names)}
    roots = {name: name for name in names if "." not in name}
    for word, candidates, cutoff in ((last, siblings, 0.6), (last, anywhere, 0.7), (given.split(".")[0], roots, 0.6)):
        match = difflib.get_close_matches(word, candidates, n=1, cutoff=cutoff)
        if match:
            return candidates[match[0]]
    return None


def listing(names: Iterable[str]) -> str:
    """The names, separated by commas; after sixteen of them, how many more there are."""
    names = list(names)
    shown = ", ".join(names[:LISTED])
    more = len(names) - LISTED
    return f"{shown} and {more} more" if more > 0 else shown or "none"


def unknown(given: str, what: str, allowed: Iterable[str], name: str | None = None) -> str:
    """'GIVEN is not WHAT; allowed: A, B; the nearest is A.'

    name  the part of the given text to look for among the allowed; all of it by default
    """
    names = list(allowed)
    near = nearest(name or given, names)
    hint = f"; the nearest is {near}" if near else ""
    return f"{given} is not {what}; allowed: {listing(names)}{hint}."


def one_line(text: object) -> str:
    """Any message as a single line that ends like a sentence, or in a command that can be pasted."""
    line = " ".join(str(text).split())
    ends_in_command = ": deqrun " in line.rsplit(". ", 1)[-1]
    return line if ends_in_command or line.endswith((".", "?", "!")) else f"{line}."


_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than allowed",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "it may not be written",
    errno.EPERM: "it may not be written",
    errno.ENOENT: "its folder is gone",
    errno.ENOTDIR: "its folder is gone",
    errno.EIO: "the disk fails",
    errno.ESTALE: "the network disk is gone",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
}


def refusal(error: OSError) -> str | None:
    """One sentence on a system's refusal to read or write; None where the error is of another kind."""
    reason = _REFUSALS.get(error.errno or 0)
    if reason is None:
        return None
    where = f"{error.filename2 or error.filename}: " if error.filename else ""
    return one_line(f"{where}{reason} ({error.strerror})")
