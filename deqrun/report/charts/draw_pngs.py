"""A process that draws PNGs: Vega-Lite specifications in, pictures out. Started as a script, so that it imports little.

Reads a JSON list of specifications from stdin and writes each picture to stdout, its length in 8 bytes before it.
"""

import json
import sys

import vl_convert


def main(vega_lite: str, scale: str) -> None:
    """Draw the specifications of stdin, once it is closed."""
    vl_convert.vegalite_to_png({"data": {"values": []}, "mark": "point"})  # starts the renderer while stdin is awaited
    for spec in json.load(sys.stdin):
        picture = vl_convert.vegalite_to_png(spec, vl_version=vega_lite, scale=float(scale), allowed_base_urls=[])
        sys.stdout.buffer.write(len(picture).to_bytes(8, "big") + picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
