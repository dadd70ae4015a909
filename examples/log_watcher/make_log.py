"""An invented log of a web server, to try the watcher with.

python make_log.py > clean.log
python make_log.py --num 20 --strange 2 --seed 2
"""

from __future__ import annotations

import argparse
import random

STRANGE = (
    "FATAL kernel: Out of memory: killed process 4242 (postgres)",
    'WARN client 10.0.0.7 "GET /../../etc/passwd" 400 0 bytes',
    "ERROR unhandled exception in worker: 0x7f3a9c00 segfault at address (nil)",
)


def line(draw: random.Random, second: int) -> str:
    """What the server writes day by day."""
    time = f"2026-11-25T{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}Z"
    if draw.random() < 0.2:
        return f"{time} INFO cache: {draw.randrange(1000)} entries kept, {draw.randrange(50)} dropped"
    method, path = draw.choice(("GET", "GET", "POST")), draw.choice(("/", "/login", "/search", "/item"))
    return f'{time} INFO client 10.0.0.{draw.randrange(9)} "{method} {path}" 200 {draw.randrange(100, 9999)} bytes'


def main() -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=5000, help="how many lines")
    parser.add_argument("--strange", type=int, default=0, help="how many of them are not like the others")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    lines = [line(draw, 2 * i) for i in range(args.num - args.strange)]
    for text in draw.choices(STRANGE, k=args.strange):
        lines.insert(draw.randrange(len(lines) + 1), text)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
