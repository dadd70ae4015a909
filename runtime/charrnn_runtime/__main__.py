"""The command line of the runtime, with nothing but numpy and ONNX Runtime installed.

python -m charrnn_runtime sample model.onnx --length 500 --seed 1
python -m charrnn_runtime score model.onnx book.txt
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from charrnn_runtime import Request, Sampler, __version__
from charrnn_runtime.command_line import exit_code, run_command
from charrnn_runtime.options import check_count, check_seed, cli_options, new_seed, options_from_cli
from charrnn_runtime.sampling import StopStrings
from charrnn_runtime.text_io import prompt_of_argument, prompt_of_file, write_json_texts, write_stream, write_texts
from charrnn_runtime.text_scores import TextInput, print_line_scores, print_text_scores, stripped_lines
from charrnn_runtime.threads import parse_threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 1 for a failure, 2 for wrong usage, 130 if interrupted."""
    return exit_code(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = make_parser()
    # argparse takes no files after the first option, and leaves them over.
    args, left = parser.parse_known_args(arguments)
    if any(part.startswith("-") and part != "-" for part in left) or (left and "files" not in args):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        args.files += left
    args.run(args)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m charrnn_runtime", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"charrnn-runtime {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sample = commands.add_parser("sample", help="sample text from a model", description="Sample text from a model.")
    _add_sample(sample)
    score = commands.add_parser("score", help="how likely a model finds texts", description=_SCORE)
    _add_score(score)
    return parser


def _add_sample(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="The .onnx file.")
    add("--prompt", default="", help="Text to continue.")
    add("--prompt-file", metavar="FILE", help="File with the text to continue; - for standard input.")
    add("--length", type=int, default=2000, help="How many tokens to sample at most (default 2000).")
    add("--num", type=int, default=1, help="How many texts (default 1).")
    add("--label", help="What kind of text, of a model that was trained with labels.")
    add("--stop", action="append", default=[], help="End the text at this string. May be repeated.")
    add("--seed", type=int, help="The same seed gives the same text (default: a new one, reported).")
    for option in cli_options():
        shown = "" if option.default is None else f" (default {option.default:g})"
        add(
            option.flag,
            type=option.type,
            action="append" if option.repeatable else "store",
            default=option.default,
            metavar=option.metavar,
            help=option.help.removesuffix(".").replace("%", "%%") + shown + ".",
        )
    add(
        "--unknown", choices=("error", "skip"), default="error", help="Prompt characters that the model has never seen."
    )
    _add_device(parser)
    add("--quiet", action="store_true", help="Print the text alone, without the prompt.")
    add("--json", action="store_true", help="Print JSON: the texts, their seed and why each ended.")
    add("--logprobs", action="store_true", help="JSON with the log-probability of each token.")
    parser.set_defaults(run=_sample)


_SCORE = "How likely a model finds texts: nats and bits per character, perplexity."


def _add_score(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="The .onnx file.")
    add("files", nargs="*", metavar="FILE", help="A text; - for standard input, which is the default.")
    add("--text", action="append", default=[], metavar="TEXT", help="A text itself. May be repeated.")
    add(
        "--per-line",
        action="store_true",
        help="Print each line as soon as it arrives: its bits, its bits per character, and the line.",
    )
    add(
        "--unknown",
        choices=("charge", "error"),
        default="charge",
        help="Characters that the model has never seen: score them like the least likely character, or refuse them.",
    )
    _add_device(parser)
    add("--json", action="store_true", help="Print JSON, one object a text or line.")
    parser.set_defaults(run=_score)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N, auto or another provider (default cpu).")
    parser.add_argument("--threads", default="auto", help="Threads inside an operator (default auto).")


def _sample(args: argparse.Namespace) -> None:
    # Wrong values are reported before the model is loaded.
    options = options_from_cli(vars(args))
    check_count("length", args.length, least=1)
    check_count("num", args.num, least=1)
    StopStrings(args.stop)
    seed = new_seed() if args.seed is None else check_seed(args.seed)
    sampler = Sampler(args.model, device=args.device, threads=parse_threads(args.threads), expected_batch=args.num)
    if args.seed is None:
        print(f"seed {seed}", file=sys.stderr)
    if args.device == "auto":
        print(f"device {sampler.device}", file=sys.stderr)
    prompt = prompt_of_argument(args.prompt, sampler.vocabulary)
    if args.prompt_file is not None:
        prompt = prompt_of_file(args.prompt_file, sampler.vocabulary)
    request = Request(
        prompt=prompt,
        length=args.length,
        stop=args.stop,
        seed=seed,
        unknown=args.unknown,
        log_probs=args.logprobs,
        label=args.label,
        options=options,
    )
    if args.json or args.logprobs:
        write_json_texts(sampler, request, args.num)
    elif args.num > 1:
        write_texts(sampler, request, args.num, with_prompt=not args.quiet)
    else:
        write_stream(sampler, request, with_prompt=not args.quiet)


def _score(args: argparse.Namespace) -> None:
    sampler = Sampler(args.model, device=args.device, threads=parse_threads(args.threads))
    vocabulary = sampler.vocabulary
    inputs = [TextInput.of_argument(text, vocabulary) for text in args.text]
    inputs += [TextInput(name) for name in args.files or ([] if inputs else ["-"])]
    if args.per_line or "end" in vocabulary.special:
        lines = stripped_lines(inputs, vocabulary)
        name = inputs[0].shown
        print_line_scores(sampler, lines, name=name, unknown=args.unknown, each=args.per_line, as_json=args.json)
    else:
        print_text_scores(sampler, inputs, unknown=args.unknown, as_json=args.json)


if __name__ == "__main__":
    run_command(main)
