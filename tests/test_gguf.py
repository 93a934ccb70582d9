"""GGUF files: whatever is wrong with one is said in one line, and what is right is read as the `gguf` library reads it."""

import struct
import tracemalloc

import numpy as np
import pytest
from damage import damaged
from gguf_files import gguf_of, padded, smollm2, text
from hypothesis import given
from hypothesis import strategies as st

from tinylora.formats import LoadError, MissingFileError
from tinylora.formats import gguf as reader
from tinylora.formats.gguf import GGUF
from tinylora.formats.gguf_blocks import BLOCKS
from tinylora.formats.gguf_header import TYPES

METADATA = {
    "general.architecture": "llama", "a.count": 3, "a.ratio": 0.5, "a.flag": True, "a.names": ["x", "", "ü"],
    "a.numbers": np.arange(4, dtype="i4"), "a.flags": np.array([True, False]), "a.lists": [[1, 2], [3]],
}  # fmt: skip
SCALES = st.floats(-4, 4, width=16)


def blocks_of(kind, seed, n):
    """`n` blocks of random bytes, with scales that are finite."""
    rng, block = np.random.default_rng(seed), BLOCKS[kind]
    found = np.frombuffer(rng.bytes(n * block.dtype.itemsize), block.dtype).copy()
    for name in block.dtype.names or ():
        if found[name].dtype.kind == "f":
            found[name] = rng.standard_normal(n)
    return rng.standard_normal(n).astype(block.dtype) if block.dtype.kind == "f" else found


def tensor(name, kind, dims, seed=0):
    number = next(number for number, known in TYPES.items() if known == kind)
    blocks = blocks_of(kind, seed, int(np.prod(dims)) // BLOCKS[kind].length)
    return name, number, dims, (blocks & 0xBFFF if kind == "BF16" else blocks).tobytes()


TENSORS = [
    tensor("w", "Q4_1", (64, 2)),
    tensor("n", "F32", (3,)),
    tensor("h", "F16", (2, 3)),
    tensor("empty", "F32", (0, 2)),
]
WHOLE = gguf_of(METADATA, TENSORS)


def read(path, content):
    """The file, or None if it is refused in one line. Takes no more memory than a few times the file, whatever it says."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        file = GGUF(path)
        return file.metadata, {name: file.floats(name) for name in file.shapes}
    except LoadError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
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
    library = pytest.importorskip("gguf")
    expected = library.GGUFReader(path)  # only now: it hangs on some files that are refused
    assert found[1].keys() == {tensor.name for tensor in expected.tensors}
    for one in expected.tensors:
        if one.n_elements:
            numbers = library.quants.dequantize(one.data, one.tensor_type).reshape(one.shape[::-1])
            assert np.array_equal(found[1][one.name], numbers)
    for key, here in found[0].items():
        there = expected.fields[key].contents()
        if isinstance(here, np.ndarray):
            assert np.array_equal(here, there if len(here) else [], equal_nan=True)
        elif not isinstance(here, list):  # which the library flattens
            assert here == there or here != here


def test_metadata_keeps_its_types_and_shapes_are_in_row_major_order(tmp_path):
    (tmp_path / "x.gguf").write_bytes(WHOLE)
    file = GGUF(tmp_path / "x.gguf")
    assert file.shapes == {"w": (2, 64), "n": (3,), "h": (3, 2), "empty": (2, 0)}
    found = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in file.metadata.items() if k != "a.lists"}
    assert found == {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in METADATA.items() if k != "a.lists"}
    assert type(found["a.flag"]) is bool and file.metadata["a.flags"].dtype == bool
    assert [part.tolist() if isinstance(part, np.ndarray) else part for part in file.metadata["a.lists"]] == [[1, 2], [3]]
    numbers = np.frombuffer(TENSORS[2][3], "f2").reshape(3, 2)
    assert file.floats("h").dtype == np.float32 and np.array_equal(file.floats("h"), numbers)
    check(tmp_path / "x.gguf", gguf_of(METADATA, TENSORS, version=2))
    check(tmp_path / "x.gguf", gguf_of({"general.alignment": 64}, TENSORS, alignment=64))


@pytest.mark.parametrize("kind", BLOCKS)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40))
def test_every_type_is_dequantised_as_the_library_does(kind, seed, n):
    library = pytest.importorskip("gguf")
    blocks = blocks_of(kind, seed, n)
    out = np.empty((n, BLOCKS[kind].length), np.float32)
    with np.errstate(invalid="ignore"):
        BLOCKS[kind].write(blocks, out)
    stored = np.frombuffer(blocks.tobytes(), "u1").reshape(1, -1)
    expected = library.quants.dequantize(stored, library.GGMLQuantizationType[kind])
    assert np.array_equal(out.reshape(-1).view("u4"), np.asarray(expected, "f4").reshape(-1).view("u4"))


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_tensor_of_many_slabs_is_read_as_a_whole(kind, tmp_path):
    rows = 2 * reader.SLAB // 256 + 3
    (tmp_path / "x.gguf").write_bytes(gguf_of({}, [tensor("before", "F32", (5,)), tensor("w", kind, (256, rows))]))
    file, block = GGUF(tmp_path / "x.gguf"), BLOCKS[kind]
    whole = np.frombuffer(tensor("w", kind, (256, rows))[3], block.dtype)
    out = np.empty((len(whole), block.length), np.float32)
    block.write(whole, out)
    tracemalloc.start()
    found = file.floats("w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found, out.reshape(rows, 256))
    assert peak <= found.nbytes + 16 * reader.SLAB


def test_the_library_writes_what_is_read(tmp_path):
    library = pytest.importorskip("gguf")
    writer, rng = library.GGUFWriter(tmp_path / "x.gguf", "llama"), np.random.default_rng(0)
    arrays = {
        kind: rng.standard_normal((4, 256)).astype("f4") for kind in ("F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
    }
    writer.add_array("some.names", ["a", "b"])
    for kind, array in arrays.items():
        number = library.GGMLQuantizationType[kind]
        writer.add_tensor(kind, library.quants.quantize(array, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUF(tmp_path / "x.gguf")
    assert file.metadata["general.architecture"] == "llama" and file.metadata["some.names"] == ["a", "b"]
    for kind, array in arrays.items():
        assert np.abs(file.floats(kind) - array).max() < 0.5 and file.shapes[kind] == (4, 256)
    check(tmp_path / "y.gguf", (tmp_path / "x.gguf").read_bytes())


@given(content=damaged(WHOLE))
def test_bytes_that_were_changed_cut_or_added_are_refused_or_read_as_the_library_reads_them(tmp_path_factory, content):
    check(tmp_path_factory.mktemp("g") / "x.gguf", content)


@given(st.binary(max_size=120))
def test_any_bytes_at_all_are_refused_or_read(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("g") / "x.gguf"
    check(path, content)
    check(path, b"GGUF\x03\0\0\0" + content)


def array_of(kind, count, content=b""):
    return [("a", (9, struct.pack("<IQ", kind, count) + content))]


def one(**changes):
    given = {"name": "w", "kind": 0, "dims": (2,), "content": bytes(8)} | changes
    return gguf_of({}, [tuple(given.values())])


NESTED = b"".join([struct.pack("<IQ", 9, 1)] * 6)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "it is empty"), (b"GGML" + WHOLE[4:], "it begins with b'GGML'"), (b"GG", "it begins with b'GG'"),
        (b"GGUF", "it ends in the version"), (gguf_of(version=1), "version 1; known are 2 and 3"),
        (gguf_of(version=4), "version 4"), (b"GGUF\0\0\0\3" + WHOLE[8:], "it is big-endian"),
        (b"GGUF\3\0\0\0\1", "it ends in the number of tensors"),
        (gguf_of(counts=(0, 2**60)), "it claims 1,152,921,504,606,846,976 metadata entries"),
        (gguf_of(counts=(2**63, 0)), "it claims 9,223,372,036,854,775,808 tensors"),
        (gguf_of(array_of(0, 2**60)), "it claims 1,152,921,504,606,846,976 items in a"),
        (gguf_of(array_of(8, 2**40)), "it claims 1,099,511,627,776 items in a"),
        (gguf_of(array_of(9, 2**40)), "items in a"), (gguf_of(array_of(7, 2**40)), "items in a"),
        (gguf_of(array_of(13, 1)), "a holds items of the unknown type 13"),
        (gguf_of(array_of(9, 1, NESTED)), "a nests arrays deeper than 4"),
        (gguf_of([("a", (13, bytes(8)))]), "a has the unknown type 13"),
        (gguf_of([("a", (7, b"\2"))]), "a is a bool, and 2 is none"),
        (gguf_of(array_of(7, 2, b"\1\7")), "a is a bool, and 7 is none"),
        (gguf_of([("a", (8, text(b"\xff")))]), "a is not UTF-8"),
        (gguf_of([("a", (8, struct.pack("<Q", 2**63)))]), "a claims 9,223,372,036,854,775,808 bytes of text"),
        (gguf_of([(b"\xff", (4, bytes(4)))]), "the name of metadata entry 0 is not UTF-8"),
        (gguf_of([("", (4, bytes(4)))]), "is '', which is no name"), (gguf_of({"\x1b[2J": 1}), "which is no name"),
        (gguf_of([("a", (4, bytes(4)))] * 2), "the name a stands twice"),
        (gguf_of({}, [tensor("w", "F32", (2,))] * 2), "the name w stands twice"),
        (gguf_of({"general.alignment": 24}), "general.alignment is a power of two, not 24"),
        (gguf_of({"general.alignment": 0}), "not 0"), (gguf_of({"general.alignment": "32"}), "not 32"),
        (one(kind=10), "w has the type number 10; known are F32, F16, Q4_0"), (one(dims=(1,) * 5), "w has 5 dimensions"),
        (one(dims=(2**62, 2**62)), "w has the shape"), (one(dims=(0, 2**60)), "w has the shape"),
        (one(kind=2, dims=(16, 2)), "w has the shape (2, 16), which no tensor of type Q4_0 has"),
        (one(dims=(2**40,)), "w ends at byte 4,398,046,511,104 of the data, which has 32"),
        (one(dims=(9,)), "w ends at byte 36 of the data, which has 32"),
        (one(offset=32), "w begins at byte 32 of the data, where byte 0 is next"),
        (one(offset=2**63), "w begins at byte"), (one(offset=7), "w begins at byte 7"),
        (gguf_of({}, [("v", 0, (2,), bytes(8), 0),
        ("w", 0, (2,), bytes(8), 0)]), "w begins at byte 0 of the data, where byte 32"),
        (gguf_of({}, [("v", 0, (2,), bytes(8), 0), ("w", 0, (2,), bytes(8), 64)]), "w begins at byte 64"),
        (WHOLE[:200], "claims 9 bytes of text, of 0 left"),
        (WHOLE[: -len(padded(TENSORS[2][3])) - 1], "of the data, which has"),
    ],
)  # fmt: skip
def test_every_fault_is_named(tmp_path, content, message):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(LoadError) as error:
        GGUF(path)
    assert message in str(error.value) and str(error.value).startswith(f"{path}: not a readable GGUF file (")
    assert read(path, content) is None


@pytest.mark.parametrize(
    "content",
    [
        gguf_of([(f"{i:x}", (0, b"\7")) for i in range(5000)]),
        gguf_of([], [(f"{i:x}", 0, (0, 0, 0, 0), b"") for i in range(3000)]),
        gguf_of(array_of(8, 20_000, text("ab") * 20_000)), gguf_of(array_of(8, 20_000, text("") * 20_000)),
        gguf_of(array_of(9, 20_000, struct.pack("<IQ", 0, 0) * 20_000)),
        gguf_of(array_of(9, 20_000, struct.pack("<IQ", 8, 0) * 20_000)),
    ],
    ids=["entries", "tensors", "texts", "empty texts", "arrays", "lists"],
)  # fmt: skip
def test_a_file_of_small_pieces_takes_a_few_times_its_size(tmp_path, content):
    assert read(tmp_path / "x.gguf", content) is not None


def test_numbers_that_are_none_are_refused(tmp_path):
    bad = {
        "F32": np.array([0, np.nan], "f4"), "F16": np.array([np.inf], "f2"), "BF16": np.array([0x7F80], "u2"),
        "Q8_0": blocks_of("Q8_0", 0, 1), "Q6_K": blocks_of("Q6_K", 0, 1), "Q4_1": blocks_of("Q4_1", 0, 1),
    }  # fmt: skip
    bad["Q8_0"]["d"], bad["Q6_K"]["d"], bad["Q4_1"]["m"] = np.inf, np.nan, -np.inf
    tensors = [
        (*tensor(kind, kind, (blocks.size * BLOCKS[kind].length,))[:3], blocks.tobytes()) for kind, blocks in bad.items()
    ]
    (tmp_path / "x.gguf").write_bytes(gguf_of({}, tensors))
    file = GGUF(tmp_path / "x.gguf")
    for kind in bad:
        with pytest.raises(LoadError, match=rf"x\.gguf: NaN or infinity in {kind}$"):
            file.floats(kind)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingFileError, match="no such file"):
        GGUF(tmp_path / "x.gguf")
    with pytest.raises(MissingFileError, match="no such file"):
        GGUF(tmp_path)


def test_smollm2_is_read_as_the_library_reads_it():
    file = GGUF(smollm2())
    library = pytest.importorskip("gguf")
    expected = library.GGUFReader(file.path)
    assert list(file.shapes) == [tensor.name for tensor in expected.tensors] and len(file.shapes) == 272
    for one in expected.tensors:
        numbers = library.quants.dequantize(one.data, one.tensor_type)
        assert np.array_equal(file.floats(one.name), numbers.reshape(file.shapes[one.name])), one.name
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.chat_template", "llama.rope.freq_base"):
        assert file.metadata[key] == expected.fields[key].contents()
