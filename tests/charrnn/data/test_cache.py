"""The cache of token ids: when it is used, when it must not be, and that nothing half made ever is."""

from __future__ import annotations

import gzip
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from charrnn import files
from charrnn.config import DataConfig
from charrnn.data import cache, sources, token_buffer
from charrnn.data.corpus import Corpus, read_corpus
from charrnn.errors import CorpusError
from charrnn.events import Listener, Reading

if TYPE_CHECKING:
    from tests.conftest import Charrnn

TEXT = "".join(f"line {i} of a text\n" for i in range(300))
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Heard(Listener):
    """Keeps notices, and whether the text itself was read."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.readings: list[Reading] = []

    def on_notice(self, message: str) -> None:
        self.notices.append(message)

    def on_read_progress(self, event: Reading) -> None:
        self.readings.append(event)


@pytest.fixture(autouse=True)
def _everything_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_buffer, "IN_MEMORY", 100)
    monkeypatch.setattr(token_buffer, "BLOCK", 500)
    monkeypatch.setattr(sources, "CHUNK", 1000)
    monkeypatch.setattr(cache, "YOUNG", 0.0)
    monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def read(path: Path, heard: Heard | None = None, **config: object) -> Corpus:
    return read_corpus([str(path)], DataConfig(**config), listener=heard)  # type: ignore[arg-type]


def text_of(corpus: Corpus) -> str:
    return corpus.vocabulary.decode(corpus.ids.tolist())


def from_cache(path: Path, **config: object) -> bool:
    """Reads, checks, and says whether the cache was enough."""
    heard = Heard()
    assert text_of(read(path, heard, **config)) == path.read_text()
    assert not heard.notices
    return not heard.readings


def folder() -> Path:
    found = cache.folder()
    assert found is not None
    return found


def the_entry() -> Path:
    (entry,) = cache.entries()
    return entry.folder


def test_the_second_run_maps_what_the_first_one_made(path: Path) -> None:
    assert not from_cache(path)
    assert from_cache(path)
    first, second = read(path), read(path)
    assert not first.ids.flags.writeable
    assert (first.sha256, first.counts, first.vocabulary) == (second.sha256, second.counts, second.vocabulary)
    assert not list((folder() / "building").iterdir())


def test_items_and_hashes_are_mapped_too(path: Path) -> None:
    first, second = read(path, lines=True), read(path, lines=True)
    assert len(cache.entries()) == 1
    for name in ("ids", "items", "hashes"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert second.notes == first.notes == ("300 items",)


def test_options_and_contents_make_entries_of_their_own(path: Path) -> None:
    for options in ({}, {"bytes": True}, {"lines": True}, {"min_count": 2}, {"normalize": "NFC"}, {"newlines": "lf"}):
        read(path, **options)
        heard = Heard()
        read(path, heard, **options)
        assert not heard.readings
    assert from_cache(path)


def test_a_resumed_run_and_an_evaluation_find_the_entry_of_the_first_run(path: Path) -> None:
    corpus = read(path, min_count=90)
    assert "unknown" in corpus.vocabulary.special
    for fixed in (None, "error"):
        heard = Heard()
        again = read_corpus(
            [str(path)],
            DataConfig(min_count=90),
            corpus.vocabulary,
            fixed=fixed,
            listener=heard,
        )
        assert not heard.readings
        assert again.sha256 == corpus.sha256


def test_the_same_text_elsewhere_ends_at_the_same_entry(path: Path) -> None:
    read(path)
    other = path.with_name("other.gz")
    other.write_bytes(gzip.compress(TEXT.encode()))
    corpus = read(other)
    assert corpus.name == "other"
    assert len(cache.entries()) == 1
    assert from_cache(path)


def test_short_texts_and_pipes_leave_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_buffer, "IN_MEMORY", 4 * len(TEXT))
    read(path)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(token_buffer, "IN_MEMORY", 100)
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": file}))
        assert text_of(read_corpus(["-"], DataConfig())) == TEXT
    assert not (tmp_path / "cache").exists()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_changed_text_is_noticed_even_with_its_old_size_and_time(path: Path) -> None:
    assert not from_cache(path)
    status = path.stat()
    time.sleep(0.02)  # past the clock tick of the file system
    path.write_text(TEXT.replace("line 7 ", "LINE 7 "))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not from_cache(path)
    assert "LINE 7 " in text_of(read(path))


def test_a_file_added_to_a_folder_is_noticed(path: Path) -> None:
    assert len(text_of(read(path.parent))) > 0
    (path.parent / "zzz.txt").write_text("and more of it")
    assert text_of(read(path.parent)).endswith("and more of it")


def test_a_text_that_changes_while_it_is_read_is_not_kept(path: Path) -> None:
    class Meddling(Heard):
        def on_read_progress(self, event: Reading) -> None:
            with path.open("a") as file:
                file.write("x")

    read(path, Meddling())
    assert not cache.entries()


def test_a_text_so_young_that_a_change_would_not_show_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "YOUNG", 1000.0)
    read(path)
    assert not cache.entries()


def _cut(place: Path) -> None:
    os.truncate(place / "ids", 1234)


def _flip(place: Path) -> None:
    data = bytearray((place / "ids").read_bytes())
    data[77] ^= 1
    (place / "ids").write_bytes(data)


def _header(change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        header = place / "header.json"
        header.write_text(change(header.read_text()))

    return damage


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (_cut, "ids has 1,234 bytes of"),
        (_flip, "checksum"),
        (lambda place: (place / "ids").unlink(), "No such file"),
        (lambda place: (place / "header.json").unlink(), "No such file"),
        (_header(lambda text: text[: len(text) // 2]), "damaged"),
        (_header(lambda text: text.replace('"n"', '"q"')), "header's checksum"),
        (_header(lambda _: "[]"), "damaged"),
        (_header(lambda _: "7"), "damaged"),
    ],
)
def test_a_damaged_entry_is_told_of_and_made_again(path: Path, damage: Callable[[Path], None], what: str) -> None:
    read(path)
    damage(the_entry())
    assert len(cache.entries()) == 1
    heard = Heard()
    assert text_of(read(path, heard)) == TEXT
    assert len(heard.notices) == 1
    assert what in heard.notices[0]
    assert "read again" in heard.notices[0]
    assert from_cache(path)


@pytest.mark.parametrize("data", ["", "{", "[]", '{"entry": 7}', '{"entry": "../../.."}', '{"entry": "none"}'])
def test_a_damaged_index_is_only_an_index(path: Path, data: str) -> None:
    read(path)
    (index,) = (folder() / "index").iterdir()
    index.write_text(data)
    assert not from_cache(path)
    assert from_cache(path)


def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No home folder: neither the environment nor the system's list of users knows one."""
    import pwd

    def unknown(_: int) -> object:
        raise KeyError("uid not found")

    for name in ("CHARRNN_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def below_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("CHARRNN_CACHE", "file/cache")


def below_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARRNN_CACHE", "/proc/charrnn")


def home_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHARRNN_CACHE")
    monkeypatch.setenv("HOME", "/proc/nobody")


WITHOUT_A_CACHE: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    nowhere: "there is no cache, since the user has no home folder; set CHARRNN_CACHE to a folder",
    below_a_file: "the cache file/cache/corpora cannot be written (Not a directory); set CHARRNN_CACHE to another",
    below_proc: "the cache /proc/charrnn/corpora cannot be written (No such file or directory); set CHARRNN_CACHE to",
    home_that_is_missing: "the cache /proc/nobody/.cache/charrnn/corpora cannot be written (No such file",
}


@pytest.mark.parametrize("place", WITHOUT_A_CACHE)
def test_without_a_cache_a_text_is_read_with_one_note(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[pytest.MonkeyPatch], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    place(monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        heard = Heard()
        assert text_of(read(path, heard)) == TEXT
        (notice,) = heard.notices
        assert notice.startswith(
            f"the text is read into the temporary folder, and again by the next run: {WITHOUT_A_CACHE[place]}"
        )
    assert not list((tmp_path / "temporary").iterdir())
    assert sorted(tmp_path.rglob("*")) == before
    assert cache.entries() == []
    cache.clear()


def test_without_a_cache_and_a_temporary_folder_a_text_that_is_too_large_for_memory_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARRNN_CACHE", "/proc/charrnn")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(CorpusError, match=r"token ids cannot be kept in .*CHARRNN_CACHE"):
        read(path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    with pytest.raises(CorpusError, match=r"cannot be kept in a temporary folder: No usable temporary directory found"):
        read(path)


@forks
def test_a_disk_that_fills_while_the_ids_are_written(path: Path, tmp_path: Path) -> None:
    def full() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # writes past it fail
        with pytest.raises(CorpusError, match="cannot be kept in"):
            read(path)

    assert os.WIFEXITED(in_child(full))
    assert not list((tmp_path / "temporary").iterdir())
    assert not list((folder() / "building").iterdir())
    assert not cache.entries()


def in_child(work: Callable[[], None], *, wait: bool = True) -> int:
    """Status of a forked process (or its id); a status other than 0 and a kill fails the test."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if not wait:
        return child
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return status


@forks
def test_killed_at_every_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, sync, publish = token_buffer.Tape.write, token_buffer.Tape.sync, files.write_atomically
    for moment in range(200):
        left = moment

        def die(original: Callable[..., None], *arguments: object) -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            original(*arguments)

        def work() -> None:
            monkeypatch.setattr(token_buffer.Tape, "write", lambda *a: die(write, *a))
            monkeypatch.setattr(token_buffer.Tape, "sync", lambda *a: die(sync, *a))
            monkeypatch.setattr(cache, "write_atomically", lambda *a: die(publish, *a))
            read(path)

        killed = os.WIFSIGNALED(in_child(work))
        if cache.entries():
            assert not killed or moment > 10
            break
        assert killed
        if moment % 7 == 0:  # every now and then a whole run in between: it sweeps and is right
            assert not from_cache(path)
            assert not list((folder() / "building").iterdir())
            cache.clear()
    else:
        raise AssertionError("it was never finished")
    assert text_of(read(path)) == TEXT
    assert from_cache(path)


@forks
def test_what_a_killed_process_left_of_another_text_is_swept_but_not_what_is_being_built(path: Path) -> None:
    root = folder()
    for name in ("dead", "alive"):
        (root / "building" / name).mkdir(parents=True)
        (root / "building" / name / "ids").write_bytes(b"half")
    (root / "locks").mkdir()
    import filelock

    with filelock.FileLock(root / "locks" / "alive.lock"):
        in_child(lambda: print(len(read(path).ids)))
    assert [p.name for p in (root / "building").iterdir()] == ["alive"]


@forks
def test_two_processes_at_once_read_the_text_once(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = cache.Building.finish

    def slow(self: cache.Building, *arguments: object, **more: object) -> object:
        time.sleep(0.5)
        return finish(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(cache.Building, "finish", slow)

    def work(number: int) -> Callable[[], None]:
        def reads() -> None:
            heard = Heard()
            corpus = read(path, heard)
            assert text_of(corpus) == TEXT
            (tmp_path / f"{number}.json").write_text(json.dumps([corpus.sha256, heard.notices]))

        return reads

    first = in_child(work(1), wait=False)
    while not any((folder() / "building").glob("*/ids")):
        time.sleep(0.01)
    in_child(work(2))
    os.waitpid(first, 0)
    results = [json.loads((tmp_path / f"{number}.json").read_text()) for number in (1, 2)]
    assert results[0][0] == results[1][0]
    assert results[0][1] == []
    assert results[1][1] == ["another process is reading the same text: waiting for it"]
    assert len(cache.entries()) == 1


def test_the_cache_on_the_command_line(path: Path, charrnn: Charrnn) -> None:
    assert "0 texts, 0.0 MB" in charrnn("data", "cache").out
    read(path)
    listed = json.loads(charrnn("data", "cache", "--json").out)
    (text,) = listed["texts"]
    assert (text["name"], text["tokens"], text["description"]) == ("text", len(TEXT), str(path))
    assert text["bytes"] > len(TEXT)
    assert listed["folder"] == str(cache.folder())
    assert f"text: {len(TEXT):,} tokens" in charrnn("data", "cache").out
    mapped = read(path)
    assert "1 texts removed" in charrnn("data", "clear").out
    assert not cache.entries()
    assert text_of(mapped) == TEXT  # a run that uses it goes on
    assert not from_cache(path)
