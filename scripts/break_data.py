"""Pictures and texts to train on, and ways to change them afterwards; for break_it.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES, TEXT = Path("pictures"), Path("text.txt")
LETTERS = "to be or not to be, " * 100

Change = Callable[[], object]


def draw(path: Path, number: int, size: int = 8) -> None:
    """A picture of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (size, size), dtype=np.uint8)).save(path)


def make_data() -> None:
    """Pictures in three classes of 20, and a text."""
    for number in range(60):
        draw(PICTURES / "abc"[number // 20] / f"{number:03}.png", number)
    TEXT.write_text(LETTERS)


def _pictures(name: str) -> list[Path]:
    return sorted((PICTURES / name).iterdir())


def _rename(before: str, after: str) -> None:
    (PICTURES / before).rename(PICTURES / after)


def _swap_classes() -> None:
    _rename("a", "x")
    _rename("b", "a")
    _rename("x", "b")


def _turn_classes() -> None:
    _swap_classes()
    _rename("c", "x")
    _rename("b", "c")
    _rename("x", "b")


def _of_each(change: Callable[[Path], object], name: str = "b", count: int = 20) -> Change:
    return lambda: [change(path) for path in _pictures(name)[:count]]


def _invert(path: Path) -> None:
    Image.fromarray(255 - np.array(Image.open(path))).save(path)


def _change_pixel(path: Path) -> None:
    pixels = np.array(Image.open(path))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def _draw_many(name: str) -> None:
    for number in range(900, 920):
        draw(PICTURES / name / f"{number}.png", number)


def _add_pictures(name: str) -> Change:
    return lambda: _draw_many(name)


def _relabel(path: Path) -> None:
    path.rename(PICTURES / "c" / path.name)


def _remove_all() -> None:
    shutil.rmtree(PICTURES)


def _empty() -> None:
    shutil.rmtree(PICTURES)
    PICTURES.mkdir()


def _file_in_place() -> None:
    shutil.rmtree(PICTURES)
    PICTURES.write_text("")


def _folder_in_place() -> None:
    TEXT.unlink()
    TEXT.mkdir()


def _draw_anew(path: Path) -> None:
    draw(path, 1000 + int(path.stem))


def _draw_larger(path: Path) -> None:
    draw(path, int(path.stem), size=16)


OF_PICTURES: dict[str, tuple[Change, str]] = {
    "a class is renamed": (lambda: _rename("a", "zz"), "class 'a' is gone, class 'zz' is new"),
    "two classes change names": (_swap_classes, "are others"),
    "three classes change names": (_turn_classes, "are others"),
    "a class is removed": (lambda: shutil.rmtree(PICTURES / "c"), "class 'c' is gone"),
    "a class is added": (_add_pictures("d"), "class 'd' is new"),
    "pictures are removed": (_of_each(Path.unlink, count=5), "samples and had"),
    "pictures are added": (_add_pictures("b"), "samples and had"),
    "a pixel is another": (_of_each(_change_pixel, count=1), "1 of the"),
    "a class is inverted": (_of_each(_invert), "are others"),
    "pictures get another label": (_of_each(_relabel, count=3), ""),
    "pictures are drawn anew": (_of_each(_draw_anew), "are others"),
    "larger pictures": (_of_each(_draw_larger), "are others"),
    "a picture is text": (_of_each(lambda path: path.write_text("none"), count=1), ""),
    "a picture is empty": (_of_each(lambda path: path.write_bytes(b""), count=1), ""),
    "a class is empty": (_of_each(Path.unlink), ""),
    "the folder is gone": (_remove_all, ""),
    "the folder is empty": (_empty, ""),
    "the folder is a file": (_file_in_place, ""),
}
"""Ways to change the pictures, and words of the sentence that says so."""

OF_TEXT: dict[str, tuple[Change, str]] = {
    "a letter is another": (lambda: TEXT.write_text(LETTERS[:-20] + "to bi or not to be, "), "are others"),
    "a letter that is new": (lambda: TEXT.write_text(LETTERS[:-20] + "to bx or not to be, "), "are others"),
    "longer": (lambda: TEXT.write_text(LETTERS * 2), "samples and had"),
    "shorter": (lambda: TEXT.write_text(LETTERS[:1000]), "samples and had"),
    "turned round": (lambda: TEXT.write_text(LETTERS[::-1]), "are others"),
    "empty": (lambda: TEXT.write_text(""), ""),
    "binary": (lambda: TEXT.write_bytes(bytes(range(128, 256)) * 8), ""),
    "gone": (TEXT.unlink, ""),
    "a folder": (_folder_in_place, ""),
}
"""Ways to change the text."""

HARMLESS: dict[str, tuple[Change, str]] = {
    "nothing changes": (lambda: None, ""),
    "pictures are touched": (_of_each(lambda path: os.utime(path, (0, 0))), ""),
    "a hidden file": (lambda: (PICTURES / "a" / ".hidden").write_text("x"), ""),
    "the text is touched": (lambda: os.utime(TEXT, (0, 0)), ""),
}
"""Changes that leave the data as they are."""
