"""A model repository for NVIDIA Triton: the model file, and a configuration that keeps the state on the server.

    DIR/NAME/config.pbtxt
    DIR/NAME/1/model.onnx
    DIR/NAME-generator/config.pbtxt
    DIR/NAME-generator/1/model.onnx

The generator draws a whole text in one request. Of the model itself, a client sends one
token per request, ``[[id]]``, with the id of its sequence, and gets
the logits of the next token. Triton's sequence batcher keeps the states of
each sequence ("implicit state"), which are zero at its start, and combines tokens
of different sequences into one batch. Sources: Triton's user guide, "Model Configuration",
"Implicit State Management" and "Stateful Models"; the message ModelConfig in
model_config.proto of triton-inference-server/common.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

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
{_parameters(info, "format", str(info.format))}"""


def generator_config_pbtxt(info: ModelInfo, name: str) -> str:
    """Triton's configuration for the generator of a model with this ``info``.

    Raises:
        ExportError: the name cannot be used.
    """
    scalar, row = "[ ]", "[ -1 ]"
    inputs = [("prompt", "TYPE_INT64", "[ -1, -1 ]")]
    inputs += [(key, "TYPE_INT64", row) for key in ("prompt_lengths", "index", "position", "top_k")]
    inputs += [(key, "TYPE_INT64", scalar) for key in ("seed", "length", "end")]
    inputs += [(key, "TYPE_FP64", row) for key in ("temperature", "top_p", "min_p")]
    inputs += [(state.input, _TYPES[state.dtype], f"[ -1, {state.size} ]") for state in info.states]
    outputs = [("tokens", "TYPE_INT64", "[ -1, -1 ]"), ("counts", "TYPE_INT64", row)]
    outputs += [(state.output, _TYPES[state.dtype], f"[ -1, {state.size} ]") for state in info.states]
    return f"""\
# Written by: charrnn export --triton. One request draws a text, or several in the columns of a batch: see
# "Generator 1" in runtime/README.md. The requests bring their own batch dimension.
name: {_quoted(check_name(name))}
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 0
input [
{_values(inputs)}
]
output [
{_values(outputs)}
]
{_parameters(info, "generator", "1")}"""


def _values(values: Sequence[tuple[str, str, str]]) -> str:
    return ",\n".join(f"  {{ name: {_quoted(name)} data_type: {kind} dims: {dims} }}" for name, kind, dims in values)


def _parameters(info: ModelInfo, key: str, version: str) -> str:
    """What a client needs to turn text into ids and back, the same as in the model file."""
    parameters = {
        "charrnn.vocab": json.dumps(info.vocabulary.to_json(), separators=(",", ":")),
        "charrnn.start_token": str(info.start_token),
        f"charrnn.{key}": version,
        "charrnn.weights_sha256": info.weights_sha256,
    }
    return "".join(_parameter(key, value) for key, value in parameters.items())


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
