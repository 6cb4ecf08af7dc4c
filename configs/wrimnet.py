"""WRIM-Net's numbers for a data set: those of the supplement, and ours, "unconfirmed", where no source says.

No code is released. docs/paper_versus_code.md lists what is stated, what a third party's listing of the authors'
modules says, and what is unconfirmed.
"""

from __future__ import annotations

import ml_collections


def published(c: ml_collections.ConfigDict) -> None:
    """ResNet-50 with four MIIMs, batches of 128 images of 384 x 144, Adam over 140 epochs; RegDB: 256 x 144."""
    c.system = "wrimnet"
    c.data.height, c.data.width = 384, 144
    c.data.identities, c.data.images = 8, 16  # half of them visible
    c.data.sampler = "replacement"  # an identity may have fewer images than a batch takes; unconfirmed
    m = c.model
    m.stages, m.width, m.bottleneck = (3, 4, 6, 3), 64, True  # ResNet-50
    m.stem_pool = True  # the max pooling after the first convolution
    m.stem_ceil = True  # pooled as in fast-reid, from the edge on (listing)
    m.stem_of_modality = False  # a stem for each modality; unconfirmed
    m.miim = (1, 2, 3, 4)  # stages followed by a MIIM; () for none
    m.separate = (1, 2)  # of these, the stages with one for each modality
    m.kernels = (4, 2, 1, 1)  # and strides, of each stage's compression (listing)
    m.reductions = (2, 2, 4, 4)  # of each stage's channels (listing)
    m.attention_heads = 8  # (listing)
    m.keys = "pooled"  # keys and values are averages of windows, as published; self: of every position (listing)
    m.region = 2  # side of these windows; unconfirmed
    m.norm = "compressed"  # where BatchNorm without parameters stands: compressed, input or none; unconfirmed
    m.fusion = "multiply-sigmoid"  # or multiply, add
    m.stripes = 2  # N, of the last map (listing); LLCM: unconfirmed
    m.auxiliary = True  # the losses of stage 3
    m.auxiliary_stripes = 0  # M, of its map (listing); LLCM: unconfirmed
    m.feature = "main"  # ranked: the necks of the last map and its stripes; global or all; unconfirmed

    c.loss = s = ml_collections.ConfigDict()
    s.lambda1 = 0.5  # weight of the auxiliary identity and triplet losses; unconfirmed that it is theirs
    s.lambda2 = 0.1  # weight of CMKIC; unconfirmed that it is its
    s.margin = 0.3  # of the batch-hard triplet loss of the whole maps
    s.triplet_levels = ("main", "auxiliary")  # the former is unconfirmed
    s.temperature = 0.07  # of CMKIC
    s.hardest = 4  # K of CMKIC; unconfirmed
    s.against = "both"  # A(i) of CMKIC: all other rows; other: those of the other modality; unconfirmed
    s.reduction = "sum"  # of CMKIC over the rows, as printed; mean: over those of a modality; unconfirmed
    s.contrastive_levels = ("main", "auxiliary")  # with CMKIC of whole maps and stripes; unconfirmed

    c.augment = a = ml_collections.ConfigDict()
    a.scale = (0.8, 1.0)  # share of the image that is cropped; unconfirmed
    a.aspect = (0.9, 1.1)  # height over width of what is cropped, the image's being 1; unconfirmed
    a.grey = 0.3  # probability; unconfirmed
    a.erasing = 0.5  # probability; unconfirmed

    t = c.train
    t.epochs = 140
    t.learning_rate, t.weight_decay = 3.5e-4, 5e-4  # Adam; the decay is L2 in the gradient
    t.warmup, t.milestones, t.decay = 0, (80, 120), 0.1  # no warm-up is stated; epochs, the factor at each milestone
    c.inference = "cosine,aim,sim"
    if c.dataset == "sysu":
        c.data.identities, c.data.images = 4, 32
    if c.dataset == "regdb":
        c.data.height = 256
        m.stripes, m.auxiliary_stripes = 6, 2
