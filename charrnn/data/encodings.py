"""Encodings of texts: decoding in pieces, and the likely encoding of bytes that are not UTF-8."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter

_BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE = (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2))
_HIGH_BYTES = 0.9  # share of the two most common high bytes in UTF-16 of an alphabet
_READABLE_CONTROLS = "\t\n\v\f\r\x1b\x85"
_COMMON = frozenset(map(chr, (*range(9, 127), 0x3000, 0x3001, 0x3002)))  # every longer text has some of these
_FEWEST = 4  # characters that are enough to recognise UTF-16
_FEWEST_BYTES = 6  # characters beyond ASCII that are enough for a guess; with fewer, the most common encoding is taken
_SAMPLE = 1 << 16  # bytes from which an encoding is guessed

# By preference, where several of them decode a sample to the same text. Each includes an older or smaller relative.
_LEGACY = {
    "cp1252": "Windows-1252, which includes Latin-1",
    "gb18030": "GB 18030, which includes GBK",
    "cp932": "Shift-JIS",
    "big5": "Big5",
    "cp949": "Korean, EUC-KR",
    "euc_jp": "EUC-JP",
    "iso2022_jp": "ISO-2022-JP",
    "cp1251": "Windows Cyrillic",
    "koi8_r": "KOI8-R",
    "iso8859_5": "ISO Cyrillic",
    "cp866": "DOS Cyrillic",
    "cp1250": "Windows, Central Europe",
    "iso8859_2": "Latin-2",
    "cp1253": "Windows Greek",
    "cp1254": "Windows Turkish",
    "cp1255": "Windows Hebrew",
    "cp1256": "Windows Arabic",
    "mac_roman": "Mac Roman",
    "cp850": "DOS, Western Europe",
}
_SHIFTS = re.compile(rb"\x1b\$[@B]|\x1b\([BJ]")  # escape sequences of ISO-2022-JP
_SNIPPET = 30  # characters of a decoded sample that are shown


def decoder_of(encoding: str, errors: str = "strict") -> codecs.IncrementalDecoder:
    """An incremental decoder; the byte-order mark at the beginning of a text is not part of it."""
    name = codecs.lookup(encoding).name
    return codecs.getincrementaldecoder("utf-8-sig" if name == "utf-8" else name)(errors)


def removes_bom(encoding: str) -> bool:
    """Whether the decoder of this encoding removes the byte-order mark itself."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "utf-16", "utf-32")


def certain_encoding(head: bytes) -> str | None:
    """The encoding of a file whose beginning can hardly be UTF-8, though its bytes may be valid UTF-8; or None.

    That is UTF-16 or UTF-32 with a byte-order mark. Without one, it is UTF-16
    or UTF-32 if all characters are plausible and nearly all belong to one or two
    blocks of 256, as in Latin, Greek or Cyrillic text. It is ISO-2022-JP if its
    escape sequences are there, which consist of ASCII characters.
    """
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name
    if 0 in head and (wide := _wide_encoding(head)) and (wide.startswith("utf-32") or _is_of_an_alphabet(head, wide)):
        return wide
    return "iso2022_jp" if len(_SHIFTS.findall(head)) > 1 and _decodes(head, "iso2022_jp") else None


def likely_encoding(head: bytes, sample: bytes) -> str | None:
    """The likely encoding of a text that is not UTF-8, or None; "utf-8" if only a few bytes of it are damaged.

    Args:
        head: the beginning of the file, for UTF-16 and UTF-32: of Chinese or
            Japanese text they have few zero bytes.
        sample: bytes around the first one that is not UTF-8, see ``sample_around``.
    """
    if (found := certain_encoding(head)) or 0 in head:
        return found or _wide_encoding(head)
    text = sample.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if sum(c > "\x7f" for c in text) > 3 * damaged:
        return "utf-8"
    if sum(byte > 0x7F for byte in sample) < _FEWEST_BYTES:
        return "cp1252" if _decodes(sample, "cp1252") else None
    import chardet

    found = chardet.detect(sample, compat_names=False, no_match_encoding="ascii")["encoding"]
    if found is None or not _decodes(sample, found):
        return None
    text = sample.decode(found)
    return next((name for name in _LEGACY if _decodes(sample, name) and sample.decode(name) == text), found)


def sample_around(data: bytes, at: int) -> bytes:
    """Bytes for a guess: lines of a text, from the one with byte ``at`` on, without those that are ASCII."""
    begin = max(data.rfind(b"\n", 0, at) + 1, at - _SAMPLE)
    lines = data[begin : begin + 4 * _SAMPLE].split(b"\n")
    if len(lines) == 1:
        line = lines[0][:_SAMPLE]
        # In multi-byte encodings the bytes below 0x30 are always characters of their own.
        whole = max(line.rfind(byte) for byte in b" .,;!()\t\r") + 1
        return line[:whole] or line
    found = b"\n".join(line for line in lines[:-1] if not line.isascii())[:_SAMPLE]
    return found[: found.rfind(b"\n") + 1] or lines[0]


def is_wide(encoding: str) -> bool:
    """Whether it is a form of UTF-16 or UTF-32."""
    return encoding.startswith(("utf-16", "utf-32"))


def described(encoding: str) -> str:
    """The name of an encoding, with an explanation if the name alone is unclear."""
    return f"{encoding} ({_LEGACY[encoding]})" if encoding in _LEGACY else encoding


def snippet(sample: bytes, encoding: str) -> str:
    """Some decoded characters around the first one that is not ASCII, on one line, to judge a guess by."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(sample)
    first = next((i for i, c in enumerate(text) if c > "\x7f"), 0)
    shown = text[max(0, first - _SNIPPET // 2) :][:_SNIPPET]
    return "".join(c if c.isprintable() else " " for c in shown).strip()


def _wide_encoding(head: bytes) -> str | None:
    """The form of UTF-16 or UTF-32 that makes a plausible text of bytes without a byte-order mark, or None."""
    for name, width in _WIDE:
        try:
            text = codecs.getincrementaldecoder(name)("strict").decode(head[: len(head) // width * width])
        except UnicodeDecodeError:
            continue
        if len(text) >= _FEWEST and _plausible(text):
            return name
    return None


def _is_of_an_alphabet(head: bytes, encoding: str) -> bool:
    """Whether the high bytes of UTF-16 are nearly all the same, and the low bytes are not."""
    high, low = (head[1::2], head[::2]) if encoding.endswith("le") else (head[::2], head[1::2])
    common = sum(count for _, count in Counter(high).most_common(2))
    return common >= _HIGH_BYTES * len(high) and len(set(low)) > 2


def _plausible(text: str) -> bool:
    """Whether all characters are assigned and none is a control character, and some are blanks, marks or ASCII."""
    if not any(c in text for c in _COMMON):
        return False
    return all(c in _READABLE_CONTROLS or unicodedata.category(c) not in ("Cn", "Co", "Cs", "Cc") for c in set(text))


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)("strict").decode(data)
    except UnicodeDecodeError:
        return False
    return True
