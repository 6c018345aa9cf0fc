"""From stored integers to normalised floats and back."""

import torch

from mimsuite.masked.normalization import Normalize


def test_a_constant_channel_becomes_zero_and_comes_back():
    normalize = Normalize([0.2, 0.5], [0.0, 0.25])
    images = torch.stack([torch.full((4, 4), 51), torch.arange(16).view(4, 4)])[None].byte()
    pixels = normalize(images)
    torch.testing.assert_close(pixels[0, 0], torch.zeros(4, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalize.undo(pixels) * 255, images.float())
