"""Changes a file's bytes at random, for the tests of what reads them."""

from hypothesis import strategies as st

NUMBERS = st.sampled_from([0, 1, 2**31, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


@st.composite
def damaged(draw, whole):
    """`whole` after one to four changes: bits flipped, bytes cut, inserted or removed, or eight overwritten by a number."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.just(0) | st.integers(0, max(len(content) - 1, 0)))
        change = draw(st.sampled_from(["flip", "cut", "insert", "remove", "number"]))
        if change == "flip" and content:
            content[at] ^= draw(st.integers(1, 255))
        elif change == "cut":
            del content[at:]
        elif change == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=20))
        elif change == "remove":
            del content[at : at + 8]
        else:
            content[at : at + 8] = draw(NUMBERS).to_bytes(8, "little")
    return bytes(content)
