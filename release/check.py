"""Checks what a release publishes: the files are built, and then used in environments that hold nothing else.

    python release/check.py

Needs the packages build, twine and uv (``pip install ".[release]"``; ``make release-check`` does it), and a registry
of Python packages. The steps:

1. Both distributions are built from a copy of the files that git knows: a wheel and an sdist of each. The wheel that is
   built from the sdist must hold the same files as the wheel that is built from the sources. twine checks them.
2. npm packs the JavaScript package, and Node imports it. Left out without npm.
3. On each Python from 3.11 to 3.14 that is found, on the oldest also with the lowest versions of what it needs, the
   runtime's wheel draws and scores the texts of ``tests/fixtures``.
4. The trainer's wheel trains, exports, samples, scores, classifies, draws pages and serves on each Python for which the
   registry has a torch without CUDA, and on the oldest one also with the lowest versions of what it requires. torch
   itself has the version in constraints.txt; another one is chosen with ``--torch VERSION``.

Everything is done in a temporary folder, which is removed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures" / "0.1"
SOURCES = {"charrnn": ".", "charrnn_runtime": "runtime"}  # distribution, and its folder
MINORS = range(11, 15)
TRAINER_EXTRAS = ["serve", "plot", "zstd"]
MOST_MODEL_BYTES = 2**24

# Draws and scores what expected.json tells of a model file, with the installed runtime.
RUNTIME = """
import json, sys
from pathlib import Path
import charrnn_runtime, numpy, onnxruntime
assert Path(charrnn_runtime.__file__).is_relative_to(sys.prefix), charrnn_runtime.__file__
for name, expected in json.loads(Path("expected.json").read_text("utf-8")).items():
    if name.endswith(".onnx") and "fp16" not in name:
        sampler = charrnn_runtime.Sampler(name)
        for sample in expected["samples"]:
            assert sampler.sample(sample["prompt"], **sample["options"]) == sample["text"], (name, sample)
        nats = -sampler.score(expected["score"]["text"]).log_probs.sum()
        assert abs(nats - expected["score"]["nats"]) < 0.03 * len(expected["score"]["text"]), (name, nats)
assert not {"torch", "onnx", "charrnn"} & set(sys.modules)
print(f"numpy {numpy.__version__}, onnxruntime {onnxruntime.__version__}")
"""


class Failure(Exception):
    """A step did not do what it must."""


def run(*command: object, cwd: Path | None = None, text: str | None = None) -> str:
    """Standard output of a command.

    Raises:
        Failure: the command failed; with its output.
    """
    # Nothing of the checkout and of the user's Python settings may be seen.
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept, input=text, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        raise Failure(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def uv(*arguments: object, cwd: Path | None = None) -> str:
    """Runs uv, which makes environments quickly. It takes the index and the folders that pip is told to use."""
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS"):
        if f"PIP_{name}" in os.environ:
            os.environ.setdefault(f"UV_{name}", os.environ[f"PIP_{name}"])
    return run(sys.executable, "-m", "uv", "--quiet", "--no-config", "--no-python-downloads", *arguments, cwd=cwd)


def tell(began: float, text: str) -> None:
    """A line of the report, with the seconds since ``began``."""
    print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# What is published


def copy_sources(folder: Path) -> None:
    """Copies the files that git knows, as they are in the working tree: an old build/ must not come into a wheel."""
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def contents(wheel: Path) -> dict[str, int]:
    """Checksums of the files in a wheel by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: zlib.crc32(archive.read(name)) for name in archive.namelist() if not name.endswith("/RECORD")}


def build(sources: Path, dist: Path) -> dict[str, Path]:
    """Builds both distributions; returns their wheels."""
    wheels = {}
    for name, folder in SOURCES.items():
        builder = (sys.executable, "-m", "build", "--installer", "uv", sources / folder, "--outdir")
        run(*builder, dist)  # the sdist, and the wheel from the sdist
        run(*builder, dist / "direct", "--wheel")
        (wheel,), (direct,) = dist.glob(f"{name}-*.whl"), (dist / "direct").glob(f"{name}-*.whl")
        one, other = contents(wheel), contents(direct)
        if one != other:
            different = sorted(file for file in one.keys() | other.keys() if one.get(file) != other.get(file))
            raise Failure(f"{name}: the wheels from the sdist and from the sources differ: {different}")
        wheels[name] = wheel
    shutil.rmtree(dist / "direct")
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    return wheels


def pack_for_npm(sources: Path, folder: Path) -> str:
    """Packs the JavaScript package and imports it under Node; what was done, in words."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return "npm package: left out, npm or node is missing"
    folder.mkdir()
    packed = json.loads(run(npm, "pack", "--json", "--pack-destination", folder, cwd=sources / "runtime" / "js"))[0]
    files = {file["path"] for file in packed["files"]}
    known = {path.name for path in (sources / "runtime" / "js").glob("*.js")} | {"package.json", "README.md", "LICENSE"}
    if files != known:
        raise Failure(f"npm package: the packed files are not those expected: {sorted(files ^ known)}")
    run(npm, "init", "--yes", cwd=folder)
    run(npm, "install", "--ignore-scripts", "--omit=peer", "--no-audit", folder / packed["filename"], cwd=folder)
    script = "import('charrnn').then(m => console.log(typeof m.Sampler.load, m.readModelFile.name))"
    if run(node, "-e", script, cwd=folder).split() != ["function", "readModelFile"]:
        raise Failure("npm package: it does not export what it must")
    return f"npm package: {packed['filename']}, {len(files)} files, {packed['size']:,} bytes, imported by Node"


# ---------------------------------------------------------------------------------------------------------------------
# Environments


def pythons() -> dict[int, str]:
    """Interpreters by the minor version of Python 3, from PATH and pyenv."""
    found: dict[int, str] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in MINORS:
        candidates = [shutil.which(f"python3.{minor}"), *sorted(pyenv.glob(f"3.{minor}.*/bin/python"), reverse=True)]
        if sys.version_info[:2] == (3, minor):
            candidates.insert(0, sys.executable)
        for path in filter(None, candidates):  # pyenv's shims are there for versions that are not chosen, and fail
            show = [str(path), "-c", "import sys; print(sys.version_info[1])"]
            if subprocess.run(show, capture_output=True, text=True).stdout.strip() == str(minor):
                found[minor] = str(path)
                break
    return found


def lowest_versions(python: str, project: Path, extras: list[str], dist: Path, torch: str) -> Path:
    """A file of constraints: the lowest version that a pyproject.toml allows of each package but torch."""
    file, override = project.with_suffix(".lowest.txt"), project.with_suffix(".override.txt")
    override.write_text(f"{torch}\n", encoding="utf-8")
    chosen = [part for extra in extras for part in ("--extra", extra)]
    uv("pip", "compile", "--python", python, "--resolution", "lowest-direct", "--find-links", dist, *chosen, project,
       "--override", override, "--output-file", file)  # fmt: skip
    # The file names this project's own distributions too; the built ones are installed.
    kept = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("charrnn")]
    file.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return file


def environment(folder: Path, python: str, *packages: str, constraints: Path | None = None) -> Path:
    """Makes an environment with these packages; returns its interpreter."""
    uv("venv", "--python", python, folder)
    interpreter = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    uv("pip", "install", "--python", interpreter, *(["--constraints", constraints] if constraints else []), *packages)
    return interpreter


def cuda_packages(python: str, torch: str) -> list[str]:
    """The packages of CUDA that this torch would bring for this Python; none for a build for the CPU."""
    requirement = Path(tempfile.mkdtemp()) / "requirements.in"
    try:
        requirement.write_text(f"{torch}\n")
        resolved = uv("pip", "compile", "--python", python, "--no-header", "--no-annotate", requirement)
    finally:
        shutil.rmtree(requirement.parent)
    return re.findall(r"^(?:nvidia|cuda)-[\w-]+", resolved, re.MULTILINE)


def check_runtime(interpreter: Path, folder: Path) -> str:
    """Samples and scores the stored model files; returns the versions used, in words."""
    shutil.copytree(FIXTURES, folder)
    versions = run(interpreter, "-c", RUNTIME, cwd=folder).strip()
    text = run(
        interpreter, "-m", "charrnn_runtime", "sample", "lstm-text.onnx", "--length", 50, "--seed", 1, cwd=folder
    )
    score = run(interpreter, "-m", "charrnn_runtime", "score", "lstm-text.onnx", "sentences.txt", "--json", cwd=folder)
    if len(text.rstrip("\n")) != 50 or not 0 < json.loads(score)["nats_per_char"] < 10:
        raise Failure(f"charrnn_runtime: sample printed {text!r}, score {score!r}")
    return versions


# ---------------------------------------------------------------------------------------------------------------------
# The trainer


def check_trainer(interpreter: Path, folder: Path) -> str:
    """The commands of the README on a small text; returns the versions used, in words."""
    folder.mkdir()
    shutil.copy(FIXTURES / "sentences.txt", folder / "book.txt")
    os.environ["CHARRNN_CACHE"] = str(folder / "cache")

    def charrnn(*arguments: object, text: str | None = None) -> str:
        return run(interpreter, "-m", "charrnn", *arguments, cwd=folder, text=text)

    where = "import charrnn as c, charrnn_export as e, charrnn_runtime as r; print(c.__file__, e.__file__, r.__file__)"
    for module in run(interpreter, "-c", where, cwd=folder).split():
        if not Path(module).is_relative_to(interpreter.parents[1]):
            raise Failure(f"{module} is not from the wheel")
    charrnn("train", "book.txt", "--steps", 30, "--hidden-size", 32, "--out", "run", "--device", "cpu")
    charrnn("export", "run", "book.onnx")
    charrnn("export", "run", "small.onnx", "--dtype", "int8", "--max-loss-increase", 1, "--generator")
    if (folder / "book.onnx").stat().st_size > MOST_MODEL_BYTES:
        raise Failure("the model file is larger than a model of 32 units can be")
    drawn = {charrnn("sample", model, "--length", 100, "--seed", 7) for model in ("run", "book.onnx")}
    if len(drawn) != 1 or len(drawn.pop().rstrip("\n")) != 100:
        raise Failure("checkpoint and model file do not give the same text")
    if not 0 < json.loads(charrnn("eval", "book.onnx", "book.txt", "--split", "val", "--json"))["nats_per_char"] < 10:
        raise Failure("charrnn eval gives no loss")
    charrnn("eval", "book.onnx", "-", "--per-line", text="The old cat sat.\n")
    charrnn("heatmap", "book.onnx", "--text", "book.txt", "-o", "heatmap.html")
    charrnn("plot", "run", "-o", "report.html")
    charrnn("plot", "run", "-o", "loss.png")
    charrnn("inspect", "book.onnx", "--json")
    charrnn("train", "--lines", "--label", "tab", "--steps", 10, "--hidden-size", 16, "-", "--out", "labels",
            text="cat\tpurr purr\ndog\twoof woof\n" * 200)  # fmt: skip
    charrnn("classify", "labels", "purr")
    serve(interpreter, folder)
    versions = (
        "from importlib.metadata import version as v; "
        "print(*(f'{n} {v(n)}' for n in ('torch', 'numpy', 'onnx', 'onnxscript', 'onnxruntime', 'typer')), sep=', ')"
    )
    return run(interpreter, "-c", versions).strip()


def serve(interpreter: Path, folder: Path) -> None:
    """Starts the server and asks for a text, in OpenAI's form, and for the playground."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(interpreter), "-m", "charrnn", "serve", "book.onnx", "--port", str(port)]
    with (
        (folder / "serve.log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as server,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=10).close()
                    break
                except OSError:
                    if server.poll() is not None:
                        raise Failure(f"the server ended:\n{(folder / 'serve.log').read_text()}") from None
                    time.sleep(0.1)
            body = json.dumps({"model": "book", "prompt": "The ", "max_tokens": 20, "seed": 7}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address}/v1/completions", body, headers)
            with urllib.request.urlopen(request, timeout=60) as response:
                if len(json.load(response)["choices"][0]["text"]) != 20:
                    raise Failure("the server's text is not as long as asked for")
            with urllib.request.urlopen(address, timeout=60) as response:
                if b"<html" not in response.read():
                    raise Failure("the server has no playground")
        finally:
            server.terminate()


# ---------------------------------------------------------------------------------------------------------------------


def main() -> None:
    """Runs all steps; ends with exit code 1 at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pinned = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert pinned is not None
    parser.add_argument("--torch", default=pinned[1], help="version of torch (default: %(default)s)")
    parser.add_argument("--dist", type=Path, help="folder to keep the built files in")
    torch = f"torch=={parser.parse_args().torch}"
    dist = parser.parse_args().dist
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="charrnn-release-") as name:
        folder = Path(name)
        try:
            check(folder, torch, began)
        except Failure as failure:
            sys.exit(f"{failure}\nThe release is not fit to be published.")
        if dist is not None:
            shutil.copytree(folder / "dist", dist, dirs_exist_ok=True)
    tell(began, "all is well")


def check(folder: Path, torch: str, began: float) -> None:
    """All steps."""
    sources = folder / "sources"
    copy_sources(sources)
    if changed := run("git", "status", "--porcelain", cwd=ROOT).strip():
        tell(began, f"note: {len(changed.splitlines())} files differ from the last commit")
    wheels = build(sources, folder / "dist")
    for path in sorted((folder / "dist").iterdir()):
        tell(began, f"{path.name}, {path.stat().st_size:,} bytes")
    tell(began, pack_for_npm(sources, folder / "npm"))
    found = pythons()
    missing = [f"3.{minor}" for minor in MINORS if minor not in found]
    tell(
        began,
        f"Python {', '.join(f'3.{m}' for m in found)}" + (f"; not found: {', '.join(missing)}" if missing else ""),
    )
    oldest = min(found)
    lowest = {
        name: lowest_versions(found[oldest], sources / SOURCES[name] / "pyproject.toml", extras, folder / "dist", torch)
        for name, extras in (("charrnn_runtime", ["cpu"]), ("charrnn", TRAINER_EXTRAS))
    }
    runtime = f"{wheels['charrnn_runtime']}[cpu]"
    trainer = f"{wheels['charrnn']}[{','.join(TRAINER_EXTRAS)}]"
    for minor, python in found.items():
        for constraints in (None, lowest["charrnn_runtime"]) if minor == oldest else (None,):
            where = f"runtime on 3.{minor}{', lowest versions' if constraints else ''}"
            interpreter = environment(folder / "venv", python, runtime, constraints=constraints)
            tell(began, f"{where}: {check_runtime(interpreter, folder / 'work')}")
            clear(folder)
    for minor, python in found.items():
        if cuda := cuda_packages(python, torch):
            tell(began, f"trainer on 3.{minor}: left out, {torch} would bring {len(cuda)} packages of CUDA")
            continue
        for constraints in (None, lowest["charrnn"]) if minor == oldest else (None,):
            where = f"trainer on 3.{minor}{', lowest versions' if constraints else ''}"
            interpreter = environment(folder / "venv", python, torch, runtime, trainer, constraints=constraints)
            tell(began, f"{where}: {check_trainer(interpreter, folder / 'work')}")
            clear(folder)


def clear(folder: Path) -> None:
    """Makes room for the next environment: one with torch has a gigabyte."""
    shutil.rmtree(folder / "venv")
    shutil.rmtree(folder / "work")


if __name__ == "__main__":
    main()
