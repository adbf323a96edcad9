"""Outlines of pixels: drawn, they give the same pixels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import label, points_in_poly

from openmae.data.annotations.tracing import areas, signed_area


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()))
def test_polygons_are_the_pixels(mask: np.ndarray) -> None:
    down, across = np.mgrid[: mask.shape[0], : mask.shape[1]]
    middles = np.stack([across.ravel(), down.ravel()], axis=1) + 0.5
    drawn = np.zeros(mask.shape, int)
    found = list(areas(mask))
    for area in found:
        outline, *holes = (abs(signed_area(ring)) for ring in area.rings)
        assert outline - sum(holes) == area.pixels
        for number, ring in enumerate(area.rings):
            drawn += (1 - 2 * (number > 0)) * points_in_poly(middles, ring).reshape(mask.shape)
            corners = [*map(tuple, ring[:-1].tolist())]
            assert len({*corners}) == len(corners)  # no ring touches itself
    assert np.array_equal(drawn, mask)
    assert len(found) == label(mask, connectivity=1).max()
