"""Damaged model files, sealed again so that the digest does not stop them, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

COUNT = 1000
LIMIT = 3 << 30  # bytes of address space, most of which ONNX Runtime reserves and never touches

PROGRAM = """
import collections, random, resource, sys
from charrnn_runtime import CharrnnError, Sampler
from charrnn_runtime.model_file import seal
resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
data = open(sys.argv[1], "rb").read()
random.seed(1)
outcomes = collections.Counter()
for number in range(COUNT):
    mutant = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        at = random.randrange(len(mutant))
        kind = random.randrange(4)
        if kind == 0:
            mutant[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            mutant[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del mutant[at : at + random.choice((1, 2, 50))]
        else:
            mutant[at:at] = bytes(random.randrange(256) for _ in range(random.choice((1, 4))))
    try:
        Sampler(seal(bytes(mutant))).sample("ab", length=5, seed=1)
        outcomes["harmless"] += 1
    except CharrnnError as error:
        assert str(error)
        outcomes["refused"] += 1
print(outcomes["harmless"], outcomes["refused"])
"""


def test_mutated_files_are_refused_or_harmless(tiny: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny.proto().SerializeToString())
    program = PROGRAM.replace("BYTES", str(LIMIT)).replace("COUNT", str(COUNT))
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=120, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # The last line: ONNX Runtime has been seen to print lines of its own.
    harmless, refused = map(int, done.stdout.splitlines()[-1].split())
    assert harmless + refused == COUNT
    assert min(harmless, refused) > 50, "the mutations reach both sides of the checks"
