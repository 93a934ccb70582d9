"""The reader of safetensors files, given files that were tampered with: it refuses them in one line, or reads what is there.

The safetensors library is the oracle: what tinylora accepts, it accepts, and reads as the same bytes.
"""

import json
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st

from tinylora.formats import LoadError, header, strict_json
from tinylora.formats import safetensors as reader

ARRAYS = {
    "a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.arange(4, dtype="f2"), "c": np.zeros((0, 3), "i8"),
    "d": np.array(7, "u1"), "e": np.arange(3, dtype="f8"),
}  # fmt: skip
WHOLE = safetensors.numpy.save(ARRAYS, {"who": "me"})


def file_of(entries, data, text=None):
    content = json.dumps(entries).encode() if text is None else text
    return len(content).to_bytes(8, "little") + content + data


def parts(content):
    """The header as a dict, and the bytes after it."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def read(path, content):
    """The arrays, or None if they are refused. Takes no more memory than a few times the file, whatever the file says."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        return reader.load(path)[0]
    except LoadError as error:
        assert str(error).startswith(f"{path}: not a readable safetensors file (") and str(error).isprintable()
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200_000 + 20 * len(content), f"{peak:,} bytes for a file of {len(content):,}"


def check(path, content):
    """If tinylora reads `content`, so does the library, and the same."""
    found = read(path, content)
    if found is None:
        return
    try:
        expected = safetensors.numpy.load(content)
    except KeyError as unknown:
        assert unknown.args == ("BF16",)  # for which NumPy, and so the library, has no dtype; tinylora has, by ml_dtypes
        return
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


NUMBERS = st.one_of(
    st.integers(-2, 80), st.sampled_from([2**31, 2**53, 2**62, 2**63, 2**64 - 1, 2**64, 10**30, 1.0, 1e300, True, None, "1"])
)
VALUES = st.one_of(
    NUMBERS, st.lists(NUMBERS, max_size=4), st.builds(dict), st.sampled_from(["F32", "F64", "I64", "BF16", "Q7"])
)


@given(st.data())
def test_a_header_that_was_edited_is_refused_or_read_as_the_library_reads_it(tmp_path_factory, data):
    entries, rest = parts(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from([*ARRAYS, "__metadata__"]))
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more", None]))
        if field is None:
            entries[name] = data.draw(VALUES)
        elif isinstance(entries[name], dict):
            entries[name][field] = data.draw(VALUES)
    check(tmp_path_factory.mktemp("r") / "x.safetensors", file_of(entries, rest))


@given(content=damaged(WHOLE))
def test_bytes_that_were_changed_cut_or_added_are_refused_or_read_as_the_library_reads_them(tmp_path_factory, content):
    check(tmp_path_factory.mktemp("r") / "x.safetensors", content)


@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_refused_or_read(tmp_path_factory, content):
    check(tmp_path_factory.mktemp("r") / "x.safetensors", content)
    check(tmp_path_factory.mktemp("r") / "x.safetensors", spelled(content))


def one(**changes):
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def named(name):
    return file_of({name: one()["x"]}, bytes(8))


def spelled(header):
    return file_of({}, b"", header)


def two(begin, end):
    return {**one(), "y": {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"1234567", "the length of the header alone takes 8"),
        ((2**63).to_bytes(8, "little"), "the header claims 9,223,372,036,854,775,808 bytes"),
        ((strict_json.LIMIT + 1).to_bytes(8, "little") + b" " * (strict_json.LIMIT + 9), "the header claims"),
        (spelled(b' {"a": 1}'), "not a JSON object"), (spelled(b"[]"), "not a JSON object"),
        (spelled(b"{" * 100_000), "not readable as JSON"),
        (spelled(b'{"a":' * 90_000), "not readable as JSON"),
        (spelled(b'{"x": NaN}'), "NaN is no finite number"), (spelled(b'{"x": -Infinity}'), "-Infinity is no"),
        (spelled(b'{"x": 1e999}'), "1e999 is no finite number"), (spelled(b'{"\xff": 1}'), "not readable as JSON"),
        (spelled(b'{"x": 1, "x": 2}'), "the key 'x' stands twice"),
        (spelled(b'{"x": {"dtype": "F32", "dtype": "F16"}}'), "the key 'dtype' stands twice"),
        (spelled(b'{"x": ' + b"9" * 5000 + b"}"), "not readable as JSON"),
        (file_of({"__metadata__": {"a": 1}}, b""), "__metadata__ must hold texts alone"),
        (file_of({"__metadata__": []}, b""), "__metadata__ must hold texts alone"),
        (named("a\0b"), "is no name of an array"), (named("../a"), "is no name"),
        (named("a\\b"), "is no name"), (named(""), "is no name"),
        (named("\x1b[2J"), "is no name"),
        (file_of(one(more=1), bytes(8)), "needs dtype, shape and data_offsets, and nothing else"),
        (file_of({"x": 3}, b""), "needs dtype, shape and data_offsets"),
        (file_of(one(dtype="F8_E5M2"), bytes(8)), "'F8_E5M2'"),
        (file_of(one(dtype=["F32"]), bytes(8)), "has the dtype"), (file_of(one(shape=[-2]), bytes(8)), "has the shape"),
        (file_of(one(shape=[2.0]), bytes(8)), "has the shape"),
        (file_of(one(shape=[True, 2]), bytes(8)), "has the shape"),
        (file_of(one(shape=[0, 2**60]), bytes(8)), "has the shape"),
        (file_of(one(shape=[1] * 33), bytes(8)), "has the shape"),
        (file_of(one(shape=[2**40, 2**40]), bytes(8)), "has the shape"),
        (file_of(one(shape="2"), bytes(8)), "has the shape"),
        (file_of(one(shape=[3]), bytes(8)), "which 8 bytes do not hold"),
        (file_of(one(dtype="F64"), bytes(8)), "do not hold"),
        (file_of(one(data_offsets=[8, 0]), bytes(8)), "expected where it begins and ends"),
        (file_of(one(data_offsets=[0, 4, 8]), bytes(8)), "expected where it begins"),
        (file_of(one(data_offsets=[-8, 0]), bytes(8)), "expected where it begins"),
        (file_of(two(7, 9), bytes(9)), "y begins at byte 7 of the data, where byte 8 is next"),
        (file_of(two(9, 10), bytes(10)), "y begins at byte 9 of the data, where byte 8 is next"),
        (file_of(two(8, 20), bytes(10)), "end at byte 20 of the data, which has 10"),
        (file_of(one(), bytes(9)), "end at byte 8 of the data, which has 9"),
        (file_of(one(data_offsets=[2**60, 2**60 + 8]), bytes(8)), "begins at byte"),
    ],
)  # fmt: skip
def test_every_fault_is_named(tmp_path, content, message):
    with pytest.raises(LoadError) as error:
        (tmp_path / "x.safetensors").write_bytes(content)
        reader.load(tmp_path / "x.safetensors")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert read(tmp_path / "x.safetensors", content) is None


def test_every_dtype_has_its_size():
    assert reader.DTYPES.keys() == header.ITEM_SIZE.keys()
    assert all(np.dtype(kind).itemsize == header.ITEM_SIZE[name] for name, kind in reader.DTYPES.items())


@given(
    st.binary(max_size=60) | st.sampled_from([b'{"a": 1, "a": 1}', b"[" * 10_000, b'{"a": 1e400}', b'{"a": Infinity}', b"1"])
)
def test_json_is_an_object_or_refused(content):
    try:
        found = strict_json.parse(content, "config.json")
    except LoadError as error:
        assert str(error).startswith("config.json: ")
    else:
        assert strict_json.parse(strict_json.text_of(found).encode(), "again") == found


def test_json_has_a_limit_and_a_file(tmp_path):
    (tmp_path / "c.json").write_bytes(b" " * (strict_json.LIMIT + 1))
    with pytest.raises(LoadError, match="more than 4,194,304 bytes of JSON"):
        strict_json.read(tmp_path / "c.json")
    with pytest.raises(LoadError, match="no such file"):
        strict_json.read(tmp_path / "absent.json")
    with pytest.raises(LoadError, match="not readable"):
        strict_json.read(tmp_path)
