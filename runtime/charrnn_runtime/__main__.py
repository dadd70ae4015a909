"""``python -m charrnn_runtime model.onnx --length 500 --seed 1``: sampling with no command line installed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from charrnn_runtime import Sampler, __version__
from charrnn_runtime.command_line import exit_code, run_command
from charrnn_runtime.options import SamplingKwargs, new_seed, parse_logit_bias


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code: 0, 1 for a failure, 2 for wrong usage, 130 if interrupted."""
    return exit_code(lambda: _sample(arguments))


def _sample(arguments: Sequence[str] | None) -> None:
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.seed is None:
        args.seed = new_seed()
        print(f"seed {args.seed}", file=sys.stderr)
    drawing = SamplingKwargs(
        temperature=args.temperature,
        top_k=args.top_k,
        typical_p=args.typical_p,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        frequency_penalty=args.frequency_penalty,
        presence_penalty=args.presence_penalty,
        penalty_window=args.penalty_window,
        logit_bias=parse_logit_bias(args.logit_bias),
        allowed=args.allowed,
        min_length=args.min_length,
    )
    sampler = Sampler(args.model, device=args.device)
    if args.device == "auto":
        print(f"device {sampler.device}", file=sys.stderr)
    text: dict[str, Any] = {
        "length": args.length,
        "stop": args.stop,
        "seed": args.seed,
        "unknown": args.unknown,
        **drawing,
    }
    if args.json or args.logprobs:
        done = sampler.generate(args.prompt, log_probs=args.logprobs, **text)
        print(json.dumps({"prompt": args.prompt, **done.to_json()}, ensure_ascii=False))
        return
    pieces = sampler.stream(args.prompt, **text)
    print(args.prompt, end="")
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m charrnn_runtime", description="Sample text from a model file.")
    add = parser.add_argument
    add("model", help="the .onnx file")
    add("--prompt", default="", help="text to continue")
    add("--length", type=int, default=2000, help="how many tokens to draw (default 2000)")
    add("--min-length", type=int, default=0, help="no end token and no stop string before so many (default 0)")
    add("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    add("--top-k", type=int, help="only the k likeliest tokens")
    add("--typical-p", type=float, help="only the tokens of the most expected surprise that reach this together")
    add("--top-p", type=float, help="only the likeliest tokens that reach this probability together")
    add("--min-p", type=float, help="only tokens at least this fraction as likely as the likeliest")
    add("--repetition-penalty", type=float, default=1.0, help="divides the logits of recent tokens (default 1)")
    add("--frequency-penalty", type=float, default=0.0, help="off a logit for each recent occurrence (default 0)")
    add("--presence-penalty", type=float, default=0.0, help="off a logit if the token is recent (default 0)")
    add("--penalty-window", type=int, default=64, help="how many tokens are recent (default 64)")
    add("--logit-bias", action="append", default=[], metavar="C=N", help="adds N to the logit of C; may be repeated")
    add("--allowed", help="draw these characters only")
    add("--stop", action="append", default=[], help="end the text at this string; may be repeated")
    add("--seed", type=int, help="the same seed gives the same text (default: a new one, reported)")
    add("--unknown", choices=("error", "skip"), default="error", help="unknown prompt characters")
    add("--device", default="cpu", help="cpu, cuda, cuda:N, auto or another provider (default cpu)")
    add("--json", action="store_true", help="print JSON: the text, its seed and why it ended")
    add("--logprobs", action="store_true", help="JSON with the log-probability of each token")
    add("--version", action="version", version=f"charrnn-runtime {__version__}")
    return parser


if __name__ == "__main__":
    run_command(main)
