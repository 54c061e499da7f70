"""Parts of every page: the templates, JSON and text that are safe in them, and the drawing of charts."""

import json
import os
import re
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup, escape

from deqrun.records.files import write_whole
from deqrun.report import numbers
from deqrun.report.charts.pngs import vega_lite_version

_NUMBER = re.compile(r"n = [\d,]+|[+\N{MINUS SIGN}]?\d[\d.,]*(?:e-\d+| %)")
TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> jinja2.Environment:
    """The templates, with their filters for numbers and for foreign text."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["embedded"] = embedded_json
    made.filters["unbroken"] = unbroken
    for name in ("percent", "tolerance", "residual", "mean", "duration", "count"):
        made.filters[name] = getattr(numbers, name)
    return made


def embedded_json(value: Any) -> Markup:
    """JSON that can stand inside a <script> element whatever text it holds.

    '<', '>' and '&' become \\u escapes: neither '</script>' nor '<!--' can appear. NaN and inf raise
    ValueError.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def unbroken(text: str) -> Markup:
    """Text for HTML in which no line breaks inside '97.2 %', '1e-3' or 'n = 360'."""
    return Markup(_NUMBER.sub(r'<span class="number">\g<0></span>', str(escape(text))))


@cache
def vega_bundle() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script, safe inside a <script> element.

    Putting it together takes 1 s of a processor, and so it is kept in the user's folder for caches.
    """
    vega_lite = vega_lite_version()
    kept = _cache_folder() / f"vega-{vega_lite}-{version('vl-convert-python')}.js"
    bundle = _read_kept(kept)
    if bundle is None:
        made = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=vega_lite)
        bundle = made.replace("</script", "<\\/script").replace("<!--", "<\\!--")
        with suppress(OSError):
            write_whole(kept, f"{_digest(bundle)}\n{bundle}")
    return Markup(bundle)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "deqrun"


def _read_kept(path: Path) -> str | None:
    """The script that was kept, if it is there and whole: its first line is the digest of the rest."""
    try:
        digest, _, bundle = path.read_bytes().decode("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return bundle if digest == _digest(bundle) else None


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
