"""Mean and deviation: normalising and back, and as JSON and TOML keep them."""

import json
import tomllib
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.header import Depth
from openmae.data.views.statistics import Statistics, to_float
from openmae.recipes.pretrain.settings import Pretrain
from tests.data.deep import WHITE, images_of


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_normalize_is_torchvisions_and_back(depth: Depth) -> None:
    found = Statistics((0.2, 0.5), (0.1, 0.3), PixelFormat(2, None, depth))
    images = torch.from_numpy(np.stack([image[:9, :9] for image in images_of(depth, 2)])).permute(0, 3, 1, 2)
    scaled = images.to(torch.float64) / WHITE[depth]
    torch.testing.assert_close(to_float(images), scaled.float())
    normal = found.normalize(images)
    assert normal.dtype == torch.float32
    torch.testing.assert_close(normal, tv.normalize(scaled.float(), [*found.mean], [*found.std]))
    torch.testing.assert_close(found.denormalize(normal), scaled.float(), atol=2e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="2 channels"):
        found.normalize(images[:, :1])


def test_statistics_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 channels"):
        Statistics((0.5,), (0.2,), PixelFormat())


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            *(st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n) for _ in range(2)),
            st.none() | st.lists(st.integers(1, 20), min_size=n, max_size=n).map(tuple),
            st.sampled_from(["uint8", "uint16", "float32"]),
        )
    )
)
def test_statistics_survive_json_and_toml(values: tuple[list[float], list[float], Any, Depth]) -> None:
    mean, std, bands, depth = values
    found = Statistics(tuple(mean), tuple(std), PixelFormat(len(mean), bands, depth))
    assert Statistics.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert Statistics.from_dict(tomllib.loads(tomli_w.dumps(found.to_dict()))) == found
    assert set(found.to_dict()) <= {field.name for field in fields(Pretrain)}
    with pytest.raises(ValueError, match="int7"):
        Statistics.from_dict({**found.to_dict(), "pixel_type": "int7"})
