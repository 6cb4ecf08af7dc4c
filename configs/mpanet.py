"""MPANet's numbers for a data set, the released ones."""

from __future__ import annotations

import ml_collections


def released(c: ml_collections.ConfigDict) -> None:
    """ResNet-50 with MAM, six patterns, 16 identities x (4 + 4) images of 384 x 128; RegDB: 12 x (5 + 5), 256 x 128."""
    c.system = "mpanet"
    c.data.height, c.data.width = 384, 128
    c.data.identities, c.data.images = 16, 8
    m = c.model
    m.stages, m.width, m.bottleneck = (3, 4, 6, 3), 64, True  # ResNet-50
    m.stem_pool = True  # the max pooling after the first convolution
    m.mam = (3, 4)  # stages followed by a modality attention block; () for none
    m.patterns = 6

    c.loss = s = ml_collections.ConfigDict()
    s.separation = 0.5  # weight: masks of two patterns do not overlap
    s.centre, s.margin = 1.0, 0.7  # weight and margin of the centre cluster loss
    s.mutual = 2.5  # weight: classifiers follow the other modality's mean one

    c.augment = a = ml_collections.ConfigDict()
    a.pad = 10  # pixels, grey
    a.erasing = 0.5  # probability

    t = c.train
    t.epochs = 140
    t.learning_rate, t.weight_decay = 3.5e-4, 5e-4  # Adam; the decay is L2 in the gradient
    t.warmup, t.milestones, t.decay = 0, (80, 120), 0.1  # epochs, and the factor at each milestone
    t.teacher_rate = 0.2  # of the mean classifiers; falls as 100 / (epoch + 1) from epoch 100
    c.inference = "cosine,aim,sim"
    if c.dataset == "regdb":
        c.data.height, c.data.width = 256, 128
        c.data.identities, c.data.images = 12, 10
        t.milestones = (110,)
