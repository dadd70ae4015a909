"""``python -m charrnn_runtime model.onnx --length 500 --seed 1``: sampling with no command line installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from charrnn_runtime import CharrnnError, Sampler, __version__
from charrnn_runtime.options import new_seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code: 0, 1 for a failure, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m charrnn_runtime", description="Sample text from a model file.")
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("--prompt", default="", help="text to continue")
    parser.add_argument("--length", type=int, default=2000, help="how many tokens to draw (default 2000)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--top-k", type=int, help="only the k likeliest tokens")
    parser.add_argument("--top-p", type=float, help="only the likeliest tokens that reach this probability together")
    parser.add_argument("--min-p", type=float, help="only tokens at least this fraction as likely as the likeliest")
    parser.add_argument("--stop", action="append", default=[], help="end the text at this string; may be repeated")
    parser.add_argument("--seed", type=int, help="the same seed gives the same text (default: a new one, reported)")
    parser.add_argument("--unknown", choices=("error", "skip"), default="error", help="unknown prompt characters")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto (default cpu)")
    parser.add_argument("--version", action="version", version=f"charrnn-runtime {__version__}")
    args = parser.parse_args(arguments)
    if args.seed is None:
        args.seed = new_seed()
        print(f"seed {args.seed}", file=sys.stderr)
    try:
        sampler = Sampler(args.model, device=args.device)
        if args.device == "auto":
            print(f"device {sampler.device}", file=sys.stderr)
        pieces = sampler.stream(
            args.prompt,
            length=args.length,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            min_p=args.min_p,
            stop=args.stop,
            seed=args.seed,
            unknown=args.unknown,
        )
        print(args.prompt, end="")
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    except CharrnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, head for example, has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print()
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
