"""The process that converts one file.

Conversion needs torch and its compiler, takes seconds, and holds the interpreter while it works:
none of that belongs into a process that serves a stream or a caller's event loop. The last line of
its standard output is ``{"done": true}`` or ``{"error": "..."}``. It ends with its parent.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from streamseg.parent_death import die_with_parent


def main(parent: int, tflite_path: str, pte_path: str) -> None:
    """Convert a file and write its card beside the program.

    Args:
        parent: The process id of who wants it.
        tflite_path: What to convert.
        pte_path: Where the program comes.
    """
    die_with_parent(parent)
    warnings.simplefilter("ignore")  # the export stack warns about itself
    from pydantic import ValidationError

    from streamseg.convert.tflite import export_tflite, load_tflite
    from streamseg.errors import ModelError
    from streamseg.models.card import card_problem

    try:
        card = load_tflite(tflite_path).card(Path(pte_path).stem)
        export_tflite(tflite_path, pte_path, card=card)
    except ModelError as error:
        reply: dict[str, object] = {"error": str(error)}
    except ValidationError as error:  # what the file says of itself makes no card
        reply = {"error": f"cannot convert {tflite_path}: {card_problem(error)}"}
    except (RuntimeError, MemoryError) as error:
        text = " ".join(str(error).split())[:300]
        reply = {"error": f"cannot convert {tflite_path}: {type(error).__name__}: {text}"}
    else:
        reply = {"done": True}
    print("\n" + json.dumps(reply), flush=True)  # noqa: T201 - the answer to the parent
