"""Convolution and pooling by loops over windows, in whatever precision comes in."""

import itertools

import numpy as np


def windows(x, size, stride, pad, fill):
    """Every output place and the patch of the padded picture that it sees."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    for i, j in itertools.product(range(rows), range(columns)):
        yield (i, j), (rows, columns), x[:, i * stride : i * stride + size, j * stride : j * stride + size]


def slow_conv(x, kernel, stride, pad):
    """Cross-correlation with the same zeros on all four sides, as torch.nn.Conv2d(..., padding=pad)."""
    out = None
    for (i, j), shape, patch in windows(x, len(kernel), stride, pad, 0.0):
        out = np.zeros((len(x), *shape, kernel.shape[3])) if out is None else out
        for image in range(len(x)):
            for channel in range(kernel.shape[3]):
                out[image, i, j, channel] = (patch[image] * kernel[..., channel]).sum()
    return out


def slow_max_pool(x, size, stride, pad):
    out = None
    for (i, j), shape, patch in windows(x, size, stride, pad, -np.inf):
        out = np.zeros((len(x), *shape, x.shape[3])) if out is None else out
        out[:, i, j] = patch.max((1, 2))
    return out
