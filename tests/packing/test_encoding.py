import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prunerzero.packing import nm
from prunerzero.packing.encoding import (
    code_bytes,
    decode_bitmask,
    decode_nm,
    encode,
    mask_bytes,
)

WIDTHS = (1, 2, 4, 8)


def decoded(packed, shape):
    parts = packed.parts
    if packed.encoding == "dense":
        return parts["dense"]
    if packed.encoding == "bitmask":
        return decode_bitmask(parts["mask"], parts["values"], shape)
    return decode_nm(parts["codes"], parts["values"], shape, packed.kept, packed.axis)


def random_bits(seed, shape, width=2, sparsity=0.5):
    """Any bits: among floats NaN, infinities and -0.0 too."""
    generator = np.random.default_rng(seed)
    count = math.prod(shape)
    bits = np.frombuffer(generator.bytes(count * width), f"u{width}").reshape(shape).copy()
    bits[generator.random(shape) < sparsity] = 0
    return bits


def groups_of_four(seed, shape, kept, axis, width=2):
    """Exactly ``kept`` non-zeros in every four along ``axis``."""
    generator = np.random.default_rng(seed)
    lines = [*shape[:axis], *shape[axis + 1 :], shape[axis] // 4, 4]
    keep = generator.permuted(np.tile(np.arange(4) < kept, [*lines[:-1], 1]), axis=-1)
    values = generator.integers(1, 2 ** (8 * width) - 1, lines, dtype=f"u{width}") * keep
    flat = values.reshape([*lines[:-2], shape[axis]])
    return np.ascontiguousarray(np.moveaxis(flat, -1, axis))


def cost(bits, kept=None):
    if kept is None:
        return mask_bytes(bits.size) + np.count_nonzero(bits) * bits.itemsize
    return code_bytes(bits.size, kept) + kept * bits.size // 4 * bits.itemsize


@given(
    seed=st.integers(0, 2**32),
    shape=st.lists(st.integers(0, 40), max_size=3).map(tuple),
    width=st.sampled_from(WIDTHS),
    sparsity=st.sampled_from([0.0, 0.05, 0.5, 0.75, 0.99, 1.0]),
)
@example(seed=0, shape=(), width=4, sparsity=1.0)
@example(seed=0, shape=(0, 4), width=2, sparsity=0.5)
@example(seed=0, shape=(32, 4), width=2, sparsity=0.5)
def test_every_bit_comes_back(seed, shape, width, sparsity):
    bits = random_bits(seed, shape, width, sparsity)
    packed = encode(bits)
    back = decoded(packed, shape)
    assert back.dtype == bits.dtype
    assert back.shape == shape
    assert np.array_equal(back, bits)
    assert back.flags.c_contiguous
    assert packed.nbytes == sum(part.nbytes for part in packed.parts.values())
    assert packed.nbytes <= min(bits.nbytes, cost(bits))


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    kept=st.sampled_from([1, 2, 3]),
    axis=st.sampled_from([0, 1]),
    width=st.sampled_from(WIDTHS),
    holes=st.sampled_from([0.0, 0.01]),
)
def test_groups_of_four_come_back_along_either_axis(seed, rows, columns, kept, axis, width, holes):
    shape = (4 * rows, columns) if axis == 0 else (rows, 4 * columns)
    bits = groups_of_four(seed, shape, kept, axis, width)
    bits[np.random.default_rng(seed).random(shape) < holes] = 0
    packed = encode(bits)
    assert np.array_equal(decoded(packed, shape), bits)
    assert packed.nbytes == min(bits.nbytes, cost(bits), cost(bits, kept))


@pytest.mark.parametrize("kept", [1, 2, 3])
@pytest.mark.parametrize("shape", [(128, 256), (4, 64, 32)])
def test_n_of_4_takes_two_bits_an_index(kept, shape):
    for axis in (len(shape) - 2, len(shape) - 1):
        bits = groups_of_four(0, shape, kept, axis)
        packed = encode(bits)
        assert (packed.encoding, packed.kept, packed.axis) == ("nm4", kept, axis)
        indices = 2 if kept == 2 else 1  # where three are kept, the one missing is named
        assert packed.parts["codes"].nbytes * 8 == bits.size // 4 * indices * 2
        assert packed.parts["values"].size == kept * bits.size // 4


def test_negative_zero_and_nan_are_values():
    values = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45] + [0.0] * 250, np.float32)
    bits = values.view(np.uint32)
    packed = encode(bits)
    assert packed.encoding == "bitmask"
    assert len(packed.parts["values"]) == 5
    assert np.array_equal(decoded(packed, bits.shape), bits)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 1.0])
def test_across_the_chunks_that_are_worked_on(sparsity):
    bits = random_bits(1, (2 * 2**18 + 13,), sparsity=sparsity)
    assert np.array_equal(decoded(encode(bits), bits.shape), bits)


def test_half_zeros_in_two_bytes_take_at_most_57_percent():
    bits = random_bits(0, (1024, 1024))
    packed = encode(bits)
    assert packed.encoding == "bitmask"
    assert packed.nbytes <= 0.57 * bits.nbytes
    assert encode(groups_of_four(0, (1024, 1024), 2, 1)).nbytes <= 0.57 * bits.nbytes


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_codes_of_all_masks(kept):
    tables = nm.tables(kept)
    assert tables.fits.sum() == sum(math.comb(4, n) for n in range(kept + 1)) ** 2
    mask = np.flatnonzero(tables.fits).astype(np.uint8)
    mask = np.resize(mask, 2 * len(mask))
    completed = nm.mask_of(nm.codes_of(mask, kept), kept)
    assert np.array_equal(completed & mask, mask)
    for half in (completed & 15, completed >> 4):
        assert (np.bitwise_count(half) == kept).all()


def test_damaged_parts_are_refused():
    bits = random_bits(0, (3, 67))
    packed = encode(bits)
    mask, values = packed.parts["mask"], packed.parts["values"]
    for wrong in (mask ^ 1, mask | np.uint8(128)):
        with pytest.raises(ValueError, match="mask does not keep"):
            decode_bitmask(wrong, values, bits.shape)
    padded = mask.copy()
    padded[0] &= padded[0] - 1  # one weight less, and one more in the padding
    padded[-1] = 1
    with pytest.raises(ValueError, match="mask does not keep"):
        decode_bitmask(padded, values, bits.shape)
    with pytest.raises(ValueError, match="impossible"):
        decode_nm(np.full(16, 0xFF, np.uint8), np.ones(64, np.uint16), (32, 4), 2, 1)
