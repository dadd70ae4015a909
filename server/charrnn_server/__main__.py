"""``python -m charrnn_server MODEL…``: the server where neither torch nor the trainer is installed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields

from charrnn_runtime import CharrnnError

from charrnn_server.options import ServerOptions
from charrnn_server.serve import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 2 for arguments that cannot be used, 1 for other failures."""
    parser = argparse.ArgumentParser(prog="python -m charrnn_server", description="A playground and an API.")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="A model file (.onnx).")
    for field in fields(ServerOptions):
        name = "--" + field.name.replace("_", "-")
        if field.type == "bool":
            parser.add_argument(name, action="store_true", help=field.metadata["help"])
        elif field.type.startswith("tuple"):
            parser.add_argument(name, action="append", default=[], help=field.metadata["help"])
        else:
            kind = int if field.type == "int" else str
            parser.add_argument(
                name, type=kind, default=field.default, help=f"{field.metadata['help']} Default: {field.default}."
            )
    values = vars(parser.parse_args(arguments))
    models = values.pop("models")
    values["api_key"] = values["api_key"] or os.environ.get("CHARRNN_API_KEY") or None
    for name in ("allow_host", "allow_origin"):
        values[name] = tuple(values[name])
    try:
        serve(models, ServerOptions(**values))
    except CharrnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
