"""How many molecules of a list are valid, distinct and new.

    charrnn sample RUN --num 200 --quiet | python validity.py --training molecules.smi

A line is valid if RDKit can read it: brackets and rings close, and no atom has more bonds than it can have.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rdkit import Chem, RDLogger

RDLogger.DisableLog("rdApp.*")  # it writes a paragraph for each line that it cannot read


def canonical(smiles: str) -> str | None:
    """The one way in which RDKit writes this molecule; None if it is not valid."""
    molecule = Chem.MolFromSmiles(smiles)
    return None if molecule is None or not smiles else Chem.MolToSmiles(molecule)


def main() -> None:
    """Prints the counts, and the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="one SMILES a line (default: standard input)")
    parser.add_argument("--training", type=Path, help="what the model was trained on, to count what is new")
    args = parser.parse_args()
    lines = (sys.stdin.read() if args.file is None else args.file.read_text("utf-8")).split()
    valid = [form for line in lines if (form := canonical(line)) is not None]
    print(f"{len(valid):,} of {len(lines):,} are valid: {len(valid) / max(1, len(lines)):.1%}")
    print(f"{len(set(valid)):,} of the valid ones are distinct: {len(set(valid)) / max(1, len(valid)):.1%}")
    if args.training is not None:
        known = {canonical(line) for line in args.training.read_text("utf-8").split()}
        new = set(valid) - known
        print(f"{len(new):,} of the distinct ones are not in {args.training}: {len(new) / max(1, len(set(valid))):.1%}")


if __name__ == "__main__":
    main()
