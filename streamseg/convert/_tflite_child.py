"""The process that converts one file.

Conversion needs torch and its compiler, takes seconds, and holds the interpreter while it works:
none of that belongs into a process that serves a stream or a caller's event loop. The last line of
its standard output is ``{"done": true}`` or ``{"error": "..."}``.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path


def main(tflite_path: str, pte_path: str) -> None:
    """Convert a file and write its card beside the program."""
    warnings.simplefilter("ignore")  # the export stack warns about itself
    from streamseg.convert.tflite import export_tflite, load_tflite
    from streamseg.errors import ModelError

    try:
        card = load_tflite(tflite_path).card(Path(pte_path).stem)
        export_tflite(tflite_path, pte_path, card=card)
    except ModelError as error:
        reply: dict[str, object] = {"error": str(error)}
    except (RuntimeError, MemoryError) as error:
        text = " ".join(str(error).split())[:300]
        reply = {"error": f"cannot convert {tflite_path}: {type(error).__name__}: {text}"}
    else:
        reply = {"done": True}
    print("\n" + json.dumps(reply), flush=True)  # noqa: T201 - the answer to the parent
