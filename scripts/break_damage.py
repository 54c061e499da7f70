"""Ways to damage the files of a run folder, or to put a stranger's in their place; for break_it.py."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

Damage = Callable[[Path], object]

CHECKPOINTS = ("checkpoints/best.pt", "checkpoints/last.pt")
OBJECTS = ("status.json", "summary.json", "data.json")
ROWS = ("train.jsonl", "sweep.jsonl", "halting.jsonl")
ARRAYS = ("trajectories.npz", "data_rows.npz")
CONFIG = "config.yaml"

FORGIVEN = ("missing", "no rows", "last line cut", "a link out of the folder")
"""Damage of which a command may make nothing: a record may lack what was not recorded yet."""


NOT_FOR_PAGES = (
    "an empty object",
    "twice",
    "cut in half",
    "text for a seed",
    "another class",
    "another model",
    "no model",
    "an interpolation",
)
"""Damage of config.yaml that a page does not heed: it takes names and budgets from there, and builds nothing."""


class Evil:
    """An object whose pickle makes a file when it is opened."""

    def __reduce__(self) -> Any:
        return (Path("executed").write_text, ("",))


def damages() -> Iterator[tuple[str, str, Damage]]:
    """(file, what is done to it, how) of every damage."""
    for kinds, files in (
        (OF_ALL, (*CHECKPOINTS, *OBJECTS, *ROWS, *ARRAYS, CONFIG)),
        (OF_CHECKPOINTS, CHECKPOINTS),
        (OF_OBJECTS, OBJECTS),
        (OF_ROWS, ROWS),
        (OF_ARRAYS, ARRAYS),
        (OF_CONFIG, (CONFIG,)),
    ):
        yield from ((file, kind, damage) for file in files for kind, damage in kinds.items())


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "in it").write_text("kept")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_out(path: Path) -> None:
    outside = Path("outside") / path.name
    outside.parent.mkdir()
    shutil.move(path, outside)
    path.symlink_to(outside.resolve())


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(Path("nowhere").resolve())


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _noise(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(5000))


OF_ALL: dict[str, Damage] = {
    "missing": Path.unlink,
    "binary noise": _noise,
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "a folder": _folder,
    "a pipe": _pipe,
    "a link out of the folder": _link_out,
    "a link to nothing": _link_to_nothing,
    "a link to itself": _link_to_itself,
    "a pickle that executes": lambda path: path.write_bytes(pickle.dumps(Evil())),
}


def _changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def _of_weights(change: Callable[[dict[str, Any], str], object]) -> Damage:
    def damage(content: dict[str, Any]) -> None:
        change(content["model"], next(iter(content["model"])))

    return lambda path: _changed(path, damage)


def zip_bomb(path: Path) -> None:
    """64 members that say that they have 4 GiB each."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(64):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                member.write(bytes(2**20))
    size = (2**20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (2**32 - 2).to_bytes(4, "little")))


def true_bomb(path: Path) -> None:
    """Members that unpack to more than the memory, each from a few kB: the same bytes, listed again and again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("0.npy", "w") as member:
        for _ in range(256):
            member.write(bytes(2**20))
    raw = buffer.getvalue()
    start = raw.rindex(b"PK\x01\x02")
    entry, end = raw[start : raw.rindex(b"PK\x05\x06")], bytearray(raw[raw.rindex(b"PK\x05\x06") :])
    count = 2000
    end[8:12], end[12:16] = 2 * count.to_bytes(2, "little"), (count * len(entry)).to_bytes(4, "little")
    path.write_bytes(raw[:start] + entry * count + bytes(end))


OF_CHECKPOINTS: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": _cut,
    "text": lambda path: path.write_text("nothing of the kind"),
    "a checkpoint that executes": lambda path: torch.save(Evil(), path),
    "executes in its epoch": lambda path: _changed(path, lambda content: content.update(epoch=Evil())),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "another mapping": lambda path: torch.save({"weights": {}}, path),
    "one entry more": lambda path: _changed(path, lambda content: content.update(more=1)),
    "one entry less": lambda path: _changed(path, lambda content: content.pop("schedule")),
    "epoch is text": lambda path: _changed(path, lambda content: content.update(epoch="7")),
    "epoch is negative": lambda path: _changed(path, lambda content: content.update(epoch=-1)),
    "no weights": lambda path: _changed(path, lambda content: content.update(model={})),
    "weights are a list": lambda path: _changed(path, lambda content: content.update(model=[])),
    "weights of another size": _of_weights(lambda model, name: model.update({name: torch.zeros(3, 3)})),
    "a weight is missing": _of_weights(lambda model, name: model.pop(name)),
    "a weight more": _of_weights(lambda model, name: model.update(stranger=torch.zeros(1))),
    "a weight is complex": _of_weights(lambda model, name: model.update({name: model[name].to(torch.complex64)})),
    "a weight is no number": _of_weights(lambda model, name: model[name].fill_(torch.nan)),
    "a zip bomb": zip_bomb,
    "a true bomb": true_bomb,
    "an archive of text": lambda path: _archive(path, {"a.txt": b"text"}),
    "an archive of nothing": lambda path: _archive(path, {}),
}


def _archive(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _texts(**contents: str) -> dict[str, Damage]:
    return {kind.replace("_", " "): partial(_written, text) for kind, text in contents.items()}


def _written(text: str, path: Path) -> None:
    path.write_text(text)


def _each_wrong(wrong: Any) -> Damage:
    """Every value of a JSON object, or of the first row, is of a wrong type."""

    def damage(path: Path) -> None:
        text = path.read_text()
        first, _, rest = (text.replace("\n", ""), "", "") if path.suffix == ".json" else text.partition("\n")
        path.write_text(json.dumps(dict.fromkeys(json.loads(first), wrong)) + "\n" + rest)

    return damage


OF_OBJECTS: dict[str, Damage] = {
    **_texts(
        empty="",
        text="done",
        a_number="1",
        a_list="[]",
        null="null",
        open="{",
        twice="{} {}",
        deep="[" * 100_000,
        deep_object='{"a":' * 100_000,
        a_long_number="9" * 5000,
    ),
    "cut in half": _cut,
    "values are lists": _each_wrong([1]),
    "values are objects": _each_wrong({"a": 1}),
}

OF_ROWS: dict[str, Damage] = {
    **_texts(
        no_rows="",
        text="rows\n",
        a_list="[1]\n",
        a_number="1\n",
        null="null\n",
        an_empty_object="{}\n",
        deep="[" * 100_000 + "\n{}\n",
        cut_in_the_middle='{"epoch": 1,\n{}\n',
    ),
    "last line cut": lambda path: path.write_text(path.read_text()[:-20]),
    "values are lists": _each_wrong([1]),
    "values are text": _each_wrong("x"),
    "values are huge": _each_wrong(10**400),
}


def _lying_header(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10)})
    _archive(path, {f"{name}.npy": header.getvalue() for name in _names(path)})


def _names(path: Path) -> list[str]:
    with np.load(path) as arrays:
        return list(arrays)


def _all_are(make: Callable[[str], Any]) -> Damage:
    def damage(path: Path) -> None:
        np.savez(path, **{name: make(name) for name in _names(path)})

    return damage


OF_ARRAYS: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("arrays"),
    "cut in half": _cut,
    "a zip bomb": zip_bomb,
    "a true bomb": true_bomb,
    "headers that lie": _lying_header,
    "members of text": lambda path: _archive(path, {f"{name}.npy": b"text" for name in _names(path)}),
    "objects": _all_are(lambda name: np.array([Evil()])),
    "one number each": _all_are(lambda name: np.zeros(())),
    "shapes that don't fit": _all_are(lambda name: np.zeros((len(name), 3))),
    "dates": _all_are(lambda name: np.zeros((3, 2), dtype="datetime64[s]")),
    "text in arrays": _all_are(lambda name: np.array([["a", "b"]])),
}


def _in_config(before: str, after: str) -> Damage:
    def damage(path: Path) -> None:
        text = path.read_text()
        assert before in text, before
        path.write_text(text.replace(before, after))

    return damage


OF_CONFIG: dict[str, Damage] = {
    **_texts(
        empty="",
        text="text\n",
        a_list="- 1\n",
        a_number="1\n",
        null="null\n",
        deep="[" * 5000,
        an_open_bracket="a: [",
        an_empty_object="{}\n",
        aliases="a: &a [x]\nb: [*a, *a]\n",
        large="a: " + "x" * 5 * 2**20,
        an_object='!!python/object/apply:pathlib.Path.touch ["executed"]\n',
        binary="\x00\x01",
        twice="a: 1\na: 2\n",
    ),
    "cut in half": _cut,
    "a date for a seed": _in_config("seed: 0", "seed: 2001-99-99"),
    "text for a seed": _in_config("seed: 0", "seed: x"),
    "another class": _in_config("deqrun.solvers.Picard", "os.system"),
    "another model": _in_config("width: 8", "width: 9"),
    "no model": _in_config("model:", "modle:"),
    "an interpolation": _in_config("seed: 0", "seed: ${oc.env:HOME}"),
}
