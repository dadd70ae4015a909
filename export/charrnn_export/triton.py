"""A model repository for NVIDIA Triton: the model file, and a configuration that keeps the state on the server.

    DIR/NAME/config.pbtxt
    DIR/NAME/1/model.onnx

A client sends one token per request, ``[[id]]``, with the id of its sequence, and
gets the logits of the next token. Triton's sequence batcher keeps the states of
each sequence ("implicit state"), which are zero at its start, and combines tokens
of different sequences into one batch. Sources: Triton's user guide, "Model Configuration",
"Implicit State Management" and "Stateful Models"; the message ModelConfig in
model_config.proto of triton-inference-server/common.
"""

from __future__ import annotations

import json
import re

from charrnn_runtime import ModelInfo, StateSpec

from charrnn_export.errors import ExportError

MAX_BATCH_SIZE = 64
MAX_CANDIDATE_SEQUENCES = 1024  # sequences whose states the server keeps at once
IDLE_MICROSECONDS = 60_000_000  # a sequence without requests for this long is removed
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_name(name: str) -> str:
    """Returns the name if a model in a repository may have it.

    Raises:
        ExportError: it may not. Triton uses the name for a folder and in URLs.
    """
    if not _NAME.fullmatch(name):
        raise ExportError(f"{name!r} cannot be a model's name in Triton: take letters, digits, '_', '-' and '.'")
    return name


def config_pbtxt(info: ModelInfo, name: str) -> str:
    """Triton's configuration for a model file with this ``info``, in protobuf's text format.

    Raises:
        ExportError: the name cannot be used.
    """
    states = ",\n".join(_state(state) for state in info.states)
    # What a client needs to turn text into ids and back, the same as in the model file.
    parameters = {
        "charrnn.vocab": json.dumps(info.vocabulary.to_json(), separators=(",", ":")),
        "charrnn.start_token": str(info.start_token),
        "charrnn.format": str(info.format),
        "charrnn.weights_sha256": info.weights_sha256,
    }
    return f"""\
# Written by: charrnn export --triton. One request is one token, [[id]], with a sequence id; the first of a
# sequence is marked as its start and sends the start token. The states stay on the server.
name: {_quoted(check_name(name))}
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {MAX_BATCH_SIZE}
input [
  {{
    name: "token"
    data_type: TYPE_INT64
    # The model takes [batch]; Triton asks for at least one dimension besides.
    dims: [ 1 ]
    reshape: {{ shape: [ ] }}
  }}
]
output [
  {{
    name: "logits"
    data_type: TYPE_FP32
    dims: [ {len(info.vocabulary)} ]
  }}
]
sequence_batching {{
  max_sequence_idle_microseconds: {IDLE_MICROSECONDS}
  # "oldest" makes batches of whatever sequences have a token ready. "direct" would pad with empty slots.
  oldest {{
    max_candidate_sequences: {MAX_CANDIDATE_SEQUENCES}
  }}
  state [
{states}
  ]
}}
{"".join(_parameter(key, value) for key, value in parameters.items())}"""


def _state(state: StateSpec) -> str:
    return f"""\
    {{
      input_name: {_quoted(state.input)}
      output_name: {_quoted(state.output)}
      data_type: {_TYPES[state.dtype]}
      dims: [ {state.size} ]
      initial_state: {{
        name: {_quoted("zero_" + state.input)}
        data_type: {_TYPES[state.dtype]}
        dims: [ {state.size} ]
        zero_data: true
      }}
    }}"""


def _parameter(key: str, value: str) -> str:
    return f"parameters: {{ key: {_quoted(key)} value: {{ string_value: {_quoted(value)} }} }}\n"


def _quoted(text: str) -> str:
    """A string literal of protobuf's text format, in ASCII; other UTF-8 bytes are written in octal."""
    parts = (
        chr(byte) if 32 <= byte < 127 and byte not in b'\\"' else f"\\{byte:03o}"
        for byte in text.encode("utf-8", "surrogatepass")
    )
    return '"' + "".join(parts) + '"'
