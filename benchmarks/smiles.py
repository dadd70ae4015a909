"""SMILES-like lines from a small grammar of their own, and whether a line obeys it.

    python benchmarks/smiles.py write FILE [--num 1500000] [--seed 1]
    python benchmarks/smiles.py check FILE
    python benchmarks/smiles.py

The grammar (a subset of SMILES in looks, without its chemistry):

    molecule = unit { bond unit }, the last unit may be an end group   bond = "" | "="
    unit     = ring | atom { branch }
    branch   = "(" molecule ")" | "(=O)" | "(" end group ")"
    atom     = C N O S
    end      = C O N F Cl Br [NH3+] [O-] [S-] C#N C(=O)O C(=O)[O-]
    ring     = aromatic: c1ccccc1 and its like, five or six lower-case atoms (c n o s [nH]);
               aliphatic: C1CCCCC1 and its like, three to seven atoms (C N O)

``check`` asks for known pieces, balanced parentheses with something in them,
bonds between two atoms, ring digits in pairs at least two atoms apart, halogens
and charged ends with no more than one neighbour, and lower-case atoms within
lower-case rings. It does not look at the order of what is otherwise in place.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_CHAIN = ("C",) * 12 + ("N",) * 3 + ("O",) * 3 + ("S",)
_ENDS = ("O", "N", "F", "Cl", "Br", "C", "C", "[NH3+]", "[O-]", "[S-]", "C#N", "C(=O)O", "C(=O)[O-]")
_TERMINAL = {"F", "Cl", "Br", "[NH3+]", "[O-]", "[S-]"}
_TOKEN = re.compile(r"Cl|Br|\[(?:NH3\+|O-|S-|nH)\]|[CNOSFcnos]|[=#()]|[1-9]")
_BONDS = {"=", "#"}
_AROMATIC = {"c", "n", "o", "s", "[nH]"}
MOST_RINGS = 4


class _Molecule:
    """One line in the making: its pieces, and the ring digits that are open."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._out: list[str] = []
        self._open: set[int] = set()
        self._rings = 0

    def __str__(self) -> str:
        return "".join(self._out)

    def chain(self, units: int, depth: int) -> None:
        """A chain of so many units; the last one may be an end group."""
        draw, out = self._draw, self._out
        for i in range(units):
            if i and draw.random() < 0.1:
                out.append("=")
            kind = draw.random()
            if kind < 0.22 and self._rings < MOST_RINGS and out[-1:] != ["="]:
                self._ring(depth)
            elif i and i == units - 1 and draw.random() < 0.5 and out[-1:] != ["="]:
                out.append(draw.choice(_ENDS))
                return
            else:
                out.append("C" if out[-1:] == ["="] else draw.choice(_CHAIN))
                self._branches(depth, 0.25)

    def _branches(self, depth: int, chance: float) -> None:
        draw = self._draw
        if depth < 3 and draw.random() < chance:
            self._out.append("(")
            if draw.random() < 0.3:
                self._out.append("=O")
            elif draw.random() < 0.3:
                self._out.append(draw.choice(_ENDS))
            else:
                self.chain(draw.randint(1, 4), depth + 1)
            self._out.append(")")

    def _ring(self, depth: int) -> None:
        """A ring; what it holds in its branches uses other digits."""
        draw, out = self._draw, self._out
        digit = next(d for d in range(1, 10) if d not in self._open)
        self._open.add(digit)
        self._rings += 1
        if draw.random() < 0.6:
            atoms = ["c"] * draw.choice((5, 6, 6, 6))
            for _ in range(draw.choice((0, 0, 1, 1, 2))):
                atoms[draw.randrange(1, len(atoms))] = "n"
            if len(atoms) == 5:
                atoms[draw.randrange(1, 5)] = draw.choice(("o", "s", "[nH]"))
        else:
            atoms = ["C", *draw.choices(("C", "C", "C", "C", "N", "O"), k=draw.choice((2, 3, 4, 4, 5, 5, 6)))]
        for i, atom in enumerate(atoms):
            out.append(atom)
            if i in (0, len(atoms) - 1):
                out.append(str(digit))
            if i and i < len(atoms) - 1 and atom in ("c", "C"):
                self._branches(depth + 1, 0.15)
        self._open.discard(digit)
        last = atoms[-1]
        if last in ("c", "C"):
            self._branches(depth + 1, 0.15)


def molecules(seed: int) -> Iterator[str]:
    """Lines without end; the same ones for the same seed."""
    draw = random.Random(seed)
    while True:
        molecule = _Molecule(draw)
        molecule.chain(draw.randint(2, 9), 0)
        yield str(molecule)


def check(line: str) -> bool:
    """Whether a line obeys the grammar."""
    tokens = _TOKEN.findall(line)
    if not tokens or "".join(tokens) != line:
        return False
    open_rings: dict[str, int] = {}  # digit to the number of the atom that opened it
    atoms: list[str] = []
    ring_bonds: list[tuple[int, int]] = []
    neighbours: list[int] = []
    stack: list[int] = []
    here, bond, after_open = -1, "", False  # the atom to bind to; a bond that waits; just behind a parenthesis
    for token in tokens:
        if token in _BONDS:
            if here < 0 or bond:
                return False
            bond, after_open = token, False
        elif token == "(":
            if here < 0 or bond or after_open:
                return False
            stack.append(here)
            after_open = True
        elif token == ")":
            if not stack or bond or after_open:
                return False
            here = stack.pop()
        elif token.isdigit():
            if here < 0 or bond or after_open:
                return False
            if token in open_rings:
                begin = open_rings.pop(token)
                if here - begin < 2:
                    return False
                ring_bonds.append((begin, here))
                neighbours[begin] += 1
                neighbours[here] += 1
            else:
                open_rings[token] = here
        else:
            atoms.append(token)
            neighbours.append(0)
            if here >= 0:
                neighbours[here] += 1
                neighbours[-1] += 1
                if bond == "=" and token in _TERMINAL | _AROMATIC:
                    return False
            here, bond, after_open = len(atoms) - 1, "", False
    if open_rings or stack or bond:
        return False
    if any(atom in _TERMINAL and n > 1 for atom, n in zip(atoms, neighbours, strict=True)):
        return False
    # A lower-case atom stands between the ends of a ring whose ends are lower-case.
    rings = [(a, b) for a, b in ring_bonds if atoms[a] in _AROMATIC and atoms[b] in _AROMATIC]
    return all(any(a <= i <= b for a, b in rings) for i, atom in enumerate(atoms) if atom in _AROMATIC)


def main() -> None:
    """Writes or checks a file, or tries the grammar on itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("write", "check", "try"), nargs="?", default="try")
    parser.add_argument("file", type=Path, nargs="?", default=Path("-"), help="- for standard input, to check")
    parser.add_argument("--num", type=int, default=1_500_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.command == "try":
        began = time.perf_counter()
        lines = list(itertools.islice(molecules(args.seed), 20_000))
        seconds = time.perf_counter() - began
        print(f"{len(lines) / seconds:,.0f} lines a second, {sum(map(check, lines)) / len(lines):.2%} obey the grammar")
        return
    if args.command == "write":
        with args.file.open("w", encoding="utf-8") as file:
            for line in itertools.islice(molecules(args.seed), args.num):
                file.write(line + "\n")
        return
    lines = (sys.stdin.read() if str(args.file) == "-" else args.file.read_text("utf-8")).splitlines()
    good = sum(map(check, lines))
    print(f"{good:,} of {len(lines):,} lines obey the grammar: {good / max(1, len(lines)):.2%}")


if __name__ == "__main__":
    main()
