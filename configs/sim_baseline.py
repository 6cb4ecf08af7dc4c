"""The numbers of SIM's baseline for a data set: Section 4.1, and ours where the paper does not say."""

from __future__ import annotations

import ml_collections


def paper(c: ml_collections.ConfigDict) -> None:
    """A ResNet-50 for both modalities, cross entropy and triplet loss, images of 256 x 128, Adam over 200 epochs."""
    c.system = "sim-baseline"
    c.data.height, c.data.width = 256, 128
    c.data.identities, c.data.images = 8, 8  # the paper does not say
    m = c.model
    m.stages, m.width, m.bottleneck = (3, 4, 6, 3), 64, True  # ResNet-50
    m.stem_pool = True  # the max pooling after the first convolution
    m.pooling = "mean"  # or gem; the paper does not say

    c.loss = s = ml_collections.ConfigDict()
    s.margin = 0.3  # of the batch-hard triplet loss; the paper does not say which, nor its margin

    c.augment = a = ml_collections.ConfigDict()
    a.erasing = 0.5  # probability; the paper does not say

    t = c.train
    t.epochs = 200
    t.learning_rate = 3.5e-4  # Adam
    t.weight_decay = 5e-4  # L2 in the gradient; the paper does not say
    t.warmup, t.milestones, t.decay = 0, (), 1.0  # the paper does not say that the rate changes
    c.inference = "cosine,sgr,mnnr,sim"
