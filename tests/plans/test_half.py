import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from amae_nnunet.plans.half import in_half, small_blocks

VALUES = st.floats(-60000, 60000, width=32)


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=5), elements=VALUES))
def test_values_are_rounded_and_zero_alone_is_zero(images):
    half = in_half(images)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half == 0, images == 0)
    np.testing.assert_array_equal(np.sign(half), np.sign(images))
    np.testing.assert_allclose(half.astype(np.float64), images, rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize("value", [1e-8, -1e-8, 1e-38, -1e-45])
def test_a_contrast_that_is_nearly_zero_stays_present(value):
    images = np.zeros((2, 3, 3, 3), np.float32)
    images[1, 2, 0, 1] = value
    half = in_half(images)
    assert half[1, 2, 0, 1] == np.copysign(2.0**-24, value)
    assert np.count_nonzero(half) == 1


def test_a_value_that_has_no_room_keeps_the_case_in_float32():
    images = np.array([1.0, 65520.0], np.float32)
    assert in_half(images) is images
    assert in_half(images - 20)[1] == 65504


def test_blocks_and_chunks_fit_into_a_small_study():
    found = small_blocks((7, 20, 192, 9))
    assert found["blocks"] == found["blocks_seg"] == (1, 16, 16, 9)
    assert found["chunks"] == found["chunks_seg"] == (1, 20, 64, 9)
