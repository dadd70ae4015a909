"""Draws a text with onnxruntime and numpy alone.

python host.py model-generator.onnx "ROMEO:" 500 7
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnxruntime as ort


def main(path: str, prompt: str, length: int, seed: int) -> None:
    """Prints the prompt and its continuation, 64 characters a call."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    vocabulary, states = json.loads(metadata["charrnn.vocab"]), json.loads(metadata["charrnn.states"])
    symbols, special = vocabulary["tokens"], vocabulary["special"]
    ids = [symbols.index(character) for character in prompt]
    if not ids or "begin" in special:
        ids.insert(0, int(metadata["charrnn.start_token"]))
    # One text: a batch of 1. A seed above 2**63 is passed as the int64 with the same bits.
    feeds: dict[str, Any] = {name: np.zeros(1, np.int64) for name in ("index", "position", "top_k")}
    feeds |= {"temperature": np.ones(1), "top_p": np.ones(1), "min_p": np.zeros(1)}
    feeds |= {"seed": np.array(seed, np.uint64).view(np.int64), "end": np.array(special.get("end", -1))}
    feeds |= {state["input"]: np.zeros((1, state["shape"][1]), np.float32) for state in states}
    print(prompt, end="")
    while length:
        feeds |= {"prompt": np.array([ids]).T, "prompt_lengths": np.array([len(ids)])}
        feeds["length"] = np.array(min(length, 64))
        outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
        drawn = outputs["tokens"][: outputs["counts"][0], 0].tolist()
        print("".join(symbols[i] for i in drawn if i not in special.values()), end="", flush=True)
        # To go on: the last token is the prompt, and the states have seen all before it.
        over = len(drawn) < feeds["length"] or drawn[-1] == feeds["end"]
        ids, length = drawn[-1:], 0 if over else length - len(drawn)
        feeds |= {state["input"]: outputs[state["output"]] for state in states}
        feeds["position"] = feeds["position"] + outputs["counts"]
    print()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
