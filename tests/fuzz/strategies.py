"""Hostile input: any bytes, any JSON, and good files of ours with a few things changed.

``HYPOTHESIS_PROFILE=long`` searches for minutes a test and anew each time; without it a test
takes a moment and is always the same one.
"""

import copy
import json
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from amae_nnunet.errors import AMAEError

_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
#: Of every fuzz test; files in a folder of the test are written anew for each example.
FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "5000")) if _LONG else 40,
    derandomize=not _LONG,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
NASTY = st.sampled_from([
    "", " ", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:\\x", "~", "con", "-rf",
    "$(touch x)", "\x00", "a\nb", "\x1b[31m", "\u202e", "\ud800", "é", "a" * 300, "1e999", "NaN",
    "0", "111", "210", "T1|T2", "|", "__class__", "{0}", "%s",
])  # fmt: skip
TEXT = NASTY | st.text(max_size=20)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats() | TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
#: Texts that a JSON reader may stumble over.
STRANGE_TEXTS = st.sampled_from([
    b"", b"{", b"[" * 20_000, b"[" * 20_000 + b"]" * 20_000, b'{"a":' * 20_000,
    b"\xff\xfe{\x00}", b"\xef\xbb\xbf{}", b"1" * 5000, b"NaN", b"Infinity",
    b'{"schema": 1, "schema": 2}', b'"\\ud800"', b"null", b"[]", b"{}", b"\x00" * 64,
])  # fmt: skip
FILES = STRANGE_TEXTS | st.binary(max_size=200) | JSON.map(lambda x: json.dumps(x).encode())


def _places(content, path=()):
    """The paths to all parts of JSON values."""
    yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _places(value, (*path, key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _places(value, (*path, index))


@st.composite
def changed(draw, good):
    """Good JSON values with one to three parts replaced, removed, renamed or added."""
    content = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        paths = [path for path in _places(content) if path]
        if not paths:
            return content
        *way, last = draw(st.sampled_from(paths))
        parent = content
        for step in way:
            parent = parent[step]
        kind = draw(st.sampled_from(["replace", "remove", "add", "rename", "wrap"]))
        if kind == "remove":
            del parent[last]
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(TEXT)] = draw(JSON)
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(TEXT)] = parent.pop(last)
        elif kind == "wrap":
            parent[last] = [parent[last]]
        else:
            parent[last] = draw(JSON)
    return content


def changed_file(good):
    """Bytes of a JSON file: a good one with changes, or anything."""
    return changed(good).map(lambda x: json.dumps(x).encode()) | FILES


@st.composite
def changed_text(draw, good):
    """A good text with a few stretches replaced."""
    text = good
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(TEXT | st.sampled_from("\t\n\r\",;'")) + text[end:]
    return text


def answer(function, *arguments):
    """What a function gives, or its error, which must be one of ours and one line."""
    try:
        return function(*arguments)
    except AMAEError as error:
        text = str(error)
        assert text
        assert len(text.splitlines()) == 1, text
        return error
