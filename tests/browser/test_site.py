"""The static site in Chromium: the same text as in Python, and what a visitor can get wrong or meet with."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from charrnn_runtime import Sampler, Vocabulary, generator_file, read_model_file
from charrnn_runtime.model_file import seal

from charrnn.files import cache_folder
from charrnn.web.onnxruntime import CDN, cached_files, pin
from charrnn.web.site import write_site
from tests.runtime.conftest import TinyModel

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from tests.browser.conftest import NewPage
    from tests.conftest import Run

Serve = Callable[[Path], str]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "0.1"

# Where `make web-test` left onnxruntime-web. Asked while tests are collected: then they get a cache of their own.
USERS_CACHE = cache_folder()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a word."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """A plain file server, as a visitor's site may stand on: ``serve(folder)`` is its address."""
    servers = []

    def start(folder: Path) -> str:
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module", autouse=True)
def _fetched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARRNN_CACHE", str(USERS_CACHE))
        if cached_files() is None:
            pytest.skip("onnxruntime-web is not in the cache; make web-test fetches it")
        yield


@pytest.fixture(scope="module")
def whole_site(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site. Do not change its files."""
    folder = tmp_path_factory.mktemp("whole") / "site"
    write_site(run.model.read_bytes(), folder)
    return folder


@pytest.fixture
def site(whole_site: Path, tmp_path: Path) -> Path:
    """A site whose files may be changed."""
    return Path(shutil.copytree(whole_site, tmp_path / "site"))


@pytest.fixture(scope="module")
def ready_page(shared_page: Page, whole_site: Path, serve: Serve) -> Page:
    return ready(shared_page, serve(whole_site))


@pytest.fixture
def visited(ready_page: Page) -> Page:
    """The site in a browser, loaded once for several tests, with an empty form."""
    ready_page.evaluate("document.getElementById('form').reset()")
    return ready_page


def ready(page: Page, address: str) -> Page:
    page.goto(address)
    page.get_by_text("Ready.").wait_for()
    return page


def write(page: Page, *, prompt: str = "", length: int = 200, seed: int | str = 7, **fields: Any) -> str:
    """Fills the form, presses the button, and gives the drawn text once it is there."""
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Length").fill(str(length))
    page.get_by_label("Seed", exact=True).fill(str(seed))
    for name, value in fields.items():
        page.locator(f"#{name}").evaluate("(input, value) => { input.value = value }", str(value))
    page.get_by_role("button", name="Write").click()
    page.locator("#write:enabled").wait_for()
    return page.locator("#drawn").text_content() or ""


def test_two_thousand_characters_are_those_of_python(visited: Page, run: Run) -> None:
    sampler, page = Sampler(run.model), visited
    got = write(page, prompt="The cat", length=2000, seed=2**64 - 1, temperature=0.8)
    assert got == sampler.sample("The cat", length=2000, seed=2**64 - 1, temperature=0.8)
    assert len(got) == 2000
    assert page.locator("#given").text_content() == "The cat"
    assert re.fullmatch(r"2,000 characters( · [\d,]+ per second)? · seed 18446744073709551615", status(page))
    options: dict[str, Any] = {"temperature": 1.4, "top_p": 0.9, "min_p": 0.02}
    assert write(page, length=300, **options) == sampler.sample("", length=300, seed=7, **options)
    got = write(page, length=300, temperature=1, top_p=1, min_p=0, **{"stop-at": "dogs"})
    assert got == sampler.sample("", length=300, seed=7, stop="dogs")
    assert len(got) < 300
    pattern = r"[a-e]{2,} (?:\w+ ){2,3}cat"
    got = write(page, length=60, temperature=1, **{"stop-at": "", "pattern": pattern})
    assert got == sampler.sample("", length=60, seed=7, pattern=pattern)
    assert re.fullmatch(pattern, got)


def status(page: Page) -> str:
    return page.get_by_role("status").text_content() or ""


def products_saturate() -> bool:
    """Whether ONNX Runtime adds int8 products in 16 bits, as on processors without VNNI: other logits, other texts."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import InferenceSession

    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 64])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])]
    weights = [numpy_helper.from_array(np.full((64, 16), 127, np.int8), "w")]
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs, weights), opset_imports=[opset], ir_version=9
    )
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((1, 64), 255, np.uint8)})
    return bool(sums[0, 0] != 64 * 255 * 127)


def test_a_quantised_model_runs_too(page: Page, serve: Serve, tmp_path: Path) -> None:
    data = (FIXTURES / "lstm-text-int8.onnx").read_bytes()
    write_site(data, tmp_path / "int8")
    ready(page, serve(tmp_path / "int8"))
    assert "int8" in (page.locator("#about").text_content() or "")
    drawn = write(page, length=300, temperature=1)
    assert len(drawn) == 300
    if not products_saturate():
        assert drawn == Sampler(data).sample("", length=300, seed=7)


def test_items_end_in_the_middle_of_a_block(page: Page, serve: Serve, tmp_path: Path) -> None:
    data = (FIXTURES / "gru-items.onnx").read_bytes()
    write_site(data, tmp_path / "items")
    ready(page, serve(tmp_path / "items"))
    for seed in range(5):
        assert write(page, length=300, seed=seed, temperature=1) == Sampler(data).sample("", length=300, seed=seed)


# Loads the site's own copy of the JavaScript runtime into the page, and draws texts with any options.
DRAW = """async (texts) => {
  const site = await (await fetch("site.json")).json();
  const ort = await import(new URL(site.module.url, location.href));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await (await fetch(site.wasm.url)).arrayBuffer();
  const { Sampler } = await import(new URL("charrnn/sampler.js", location.href));
  const model = await (await fetch(site.model)).arrayBuffer();
  const sampler = await Sampler.load(ort, model, { executionProviders: ["wasm"] });
  const drawn = [];
  for (const [prompt, options] of texts) drawn.push(await sampler.sample(prompt, options));
  return drawn;
}"""


def test_labels_patterns_and_particles(page: Page, serve: Serve, tmp_path: Path) -> None:
    special = {"begin": 5, "end": 6, "label:Polish": 7, "label:<b>": 8}
    data = TinyModel(Vocabulary(symbols=(*map(ord, "abcde"), -1, -1, -1, -1), special=special)).data()
    sampler = Sampler(data)
    write_site(data, tmp_path / "labels")
    ready(page, serve(tmp_path / "labels"))
    assert page.locator("#label option").all_text_contents() == ["any", "Polish", "<b>"]
    for label in ("Polish", "<b>", ""):
        page.locator("#label").select_option(label)
        expected = sampler.sample("a", length=50, seed=7, temperature=1.5, label=label or None)
        assert write(page, prompt="a", length=50, temperature=1.5) == expected
    page.locator("#label").select_option("Polish")
    pattern = "[ab]+c?[de]{2,}"
    expected = sampler.sample(length=30, seed=7, temperature=1, label="Polish", pattern=pattern)
    assert write(page, length=30, temperature=1, pattern=pattern) == expected
    chosen: dict[str, Any] = {"length": 12, "seed": 3, "label": "Polish", "particles": 8}
    texts: list[tuple[str, dict[str, Any]]] = [("b", {**chosen, "pattern": pattern}), ("", {**chosen, "fill": "?ba?"})]
    assert page.evaluate(DRAW, texts) == [sampler.sample(prompt, **options) for prompt, options in texts]


def test_a_model_without_labels_has_no_list_of_them(visited: Page) -> None:
    assert visited.locator("#label-field").is_hidden()


def test_text_arrives_and_can_be_stopped(visited: Page) -> None:
    page = visited
    page.get_by_label("Length").fill("100000")
    page.get_by_label("Prompt").fill("The ")
    page.keyboard.press("Control+Enter")
    while len(page.locator("#drawn").text_content() or "") < 300:
        page.wait_for_timeout(20)
    # The page answers while the text is being drawn.
    page.get_by_label("Seed", exact=True).fill("12")
    page.keyboard.press("Escape")
    page.get_by_text("· stopped").wait_for()
    drawn = page.locator("#drawn").text_content() or ""
    assert 300 < len(drawn) < 100_000
    page.wait_for_timeout(150)
    assert page.locator("#drawn").text_content() == drawn, "nothing comes after the stop"
    page.get_by_role("button", name="Keep this seed").click()
    seed = page.get_by_label("Seed", exact=True).input_value()
    assert seed.isdigit()
    again = write(page, prompt="The ", length=len(drawn), seed=seed)
    assert again == drawn


def test_the_whole_page_by_keyboard(page: Page, site: Path, serve: Serve) -> None:
    ready(page, serve(site))
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert seen == ["prompt", "temperature", "length", "seed", "SUMMARY", "write", "text", "BODY"]


def test_nothing_overflows(visited: Page) -> None:
    write(visited, prompt="a" * 400, length=500)
    for width, height in ((390, 844), (1280, 800)):
        visited.set_viewport_size({"width": width, "height": height})
        assert visited.evaluate("document.documentElement.scrollWidth") == width


def test_characters_that_the_model_has_never_seen(visited: Page) -> None:
    page = visited
    assert write(page, prompt="The 漢\N{GRINNING FACE}") == ""
    alert = page.get_by_role("alert").text_content() or ""
    assert 'never seen "漢" (U+6F22) at position 4' in alert
    assert len(write(page, prompt="The ")) == 200, "the next text is drawn as if nothing had been"
    assert page.get_by_role("alert").count() == 0


@pytest.mark.parametrize("seed", ["-1", "1e3", "18446744073709551616", "<b>"])
def test_seeds_that_are_none(visited: Page, seed: str) -> None:
    page = visited
    before = page.locator("#drawn").text_content()
    page.get_by_label("Seed", exact=True).fill(seed)
    page.get_by_role("button", name="Write").click()
    if seed.isdigit():  # as many digits as a seed has: only the sampler can tell
        page.get_by_text("seed must be from 0 to 18446744073709551615").wait_for()
    else:
        assert page.locator("#seed:invalid").count() == 1
        assert page.locator("#drawn").text_content() == before


HTML = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def test_html_is_only_text(page: Page, run: Run, serve: Serve, tmp_path: Path) -> None:
    import onnx

    model = onnx.load_from_string(run.model.read_bytes())
    entries = {entry.key: entry for entry in model.metadata_props}
    training = json.loads(entries["charrnn.training"].value) | {"corpus": HTML, "epochs": HTML}
    entries["charrnn.training"].value = json.dumps(training)
    entries["charrnn.cell"].value = HTML
    model.metadata_props.remove(entries["charrnn.sha256"])
    write_site(seal(model.SerializeToString()), tmp_path / "html")
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    ready(page, serve(tmp_path / "html"))
    assert page.locator("h1").text_content() == HTML
    assert HTML.upper() in (page.locator("#about").text_content() or "")
    write(page, prompt=HTML)
    assert "never seen" in (page.get_by_role("alert").text_content() or "")
    assert page.locator("#given").text_content() == HTML
    assert page.locator("img, body script").count() == 0


@pytest.mark.parametrize("how", ["changed", "cut short", "something else", "empty"])
def test_a_damaged_model(page: Page, site: Path, serve: Serve, how: str) -> None:
    path = site / "generator.onnx"
    data = bytearray(path.read_bytes())
    if how == "changed":
        data[len(data) // 2] ^= 1
    broken = {"cut short": data[:-1000], "something else": b"<!doctype html>", "empty": b""}
    path.write_bytes(bytes(broken.get(how, data)))
    page.goto(serve(site))
    page.get_by_role("alert").wait_for()
    message = page.get_by_role("alert").text_content() or ""
    assert re.search("damaged or changed after export|not an ONNX", message)
    assert "could not be loaded" in status(page)
    assert page.get_by_role("button", name="Write").is_disabled()


def test_a_damaged_model_for_patterns(page: Page, site: Path, serve: Serve) -> None:
    """It is loaded when the first pattern is asked for; other texts do without it."""
    good = (site / "model.onnx").read_bytes()
    (site / "model.onnx").write_bytes(good[:-1000])
    ready(page, serve(site))
    assert len(write(page)) == 200
    assert write(page, pattern="[a-e]+") == ""
    assert "not an ONNX" in (page.get_by_role("alert").text_content() or "")
    assert len(write(page, pattern="")) == 200
    (site / "model.onnx").write_bytes(good)
    assert re.fullmatch("[a-e]+", write(page, pattern="[a-e]+", length=20)), "it is loaded again"


@pytest.mark.parametrize("tampered", [False, True])
def test_onnxruntime_from_a_public_network(
    new_page: NewPage, run: Run, serve: Serve, tmp_path: Path, tampered: bool
) -> None:
    files = cached_files()
    assert files is not None
    sizes = write_site(run.model.read_bytes(), tmp_path / "cdn", cdn=True)
    assert not [name for name in sizes if name.endswith((".wasm", ".mjs"))]
    page = new_page(viewport={"width": 1280, "height": 800})

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix(f"{CDN}/npm/{pin().package}@{pin().version}/")
        body = files[name] + (b"\n" if tampered and name.endswith(".mjs") else b"")
        route.fulfill(body=body, headers={"Access-Control-Allow-Origin": "*"})

    page.context.route(f"{CDN}/**", answer)
    if not tampered:
        ready(page, serve(tmp_path / "cdn"))
        assert write(page, temperature=1) == Sampler(run.model).sample("", length=200, seed=7)
        return
    page.goto(serve(tmp_path / "cdn"))
    page.get_by_role("alert").wait_for()
    assert "is not the file that this site was made with" in (page.get_by_role("alert").text_content() or "")


def test_the_site_holds_the_model_as_it_was(whole_site: Path, run: Run) -> None:
    assert read_model_file(whole_site / "model.onnx").data == run.model.read_bytes()


def test_the_example_of_a_generator(page: Page, run: Run, serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "example"
    shutil.copytree(Path(__file__).parents[2] / "examples" / "generator", folder)
    file = read_model_file(run.model)
    (folder / "model-generator.onnx").write_bytes(generator_file(file))
    for name, data in (cached_files() or {}).items():
        (folder / Path(name).name).write_bytes(data)
    (folder / "favicon.ico").touch()
    page.goto(serve(folder) + f"?prompt=The+c&length=150&seed={2**64 - 1}")
    page.locator("body[data-done]").wait_for()
    assert page.locator("#text").text_content() == "The c" + Sampler(file).sample("The c", length=150, seed=2**64 - 1)
