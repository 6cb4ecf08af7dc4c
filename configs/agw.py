"""AGW's numbers for a data set: the released ones, its base method's, and those of CAJ, which builds on it."""

from __future__ import annotations

import ml_collections


def released(c: ml_collections.ConfigDict) -> None:
    """Two stems and a shared ResNet-50 with non-local blocks, 8 identities x (4 + 4) images, SGD over 81 epochs."""
    c.system = "agw"
    c.data.sampler = "replacement"
    c.data.resample = "lanczos"
    c.data.identities, c.data.images = 8, 8
    m = c.model
    m.stages, m.width, m.bottleneck = (3, 4, 6, 3), 64, True  # ResNet-50
    m.stem_pool = True  # the max pooling after the first convolution
    m.non_local = (0, 2, 3, 0)  # of each stage, how many of the last blocks a non-local one follows; () for none
    m.pooling = "gem"  # or mean
    m.mirror = False  # rank the sum of an image's feature and its mirror image's

    c.loss = s = ml_collections.ConfigDict()
    s.triplet = "weighted"  # weighted regularised (AGW), squared (CAJ) or hard (base)
    s.triplet_variant = "released"  # or paper: weights of the negatives that sum to one (docs/paper_versus_code.md)
    s.finite = True  # of the weighted one; False: as released, infinite where distances differ by more than 88
    s.margin = 0.3  # of the hard one

    c.augment = a = ml_collections.ConfigDict()
    a.pad = 10  # pixels, black
    a.views = 1  # or 2: visible images also with exchanged channels (CAJ)
    a.erasing = 0.0  # probability, with two views

    t = c.train
    t.epochs = 81
    t.learning_rate, t.weight_decay = 0.1, 5e-4  # SGD, momentum 0.9; the rate is that of neck and classifier
    t.backbone_factor = 0.1  # what the others' rate is of it
    t.warmup, t.milestones, t.decay = 10, (20, 50), 0.1  # epochs, and the factor at each milestone
    c.inference = "cosine,aim,sim"
    if c.dataset == "sysu":
        c.eval.protocol = "sysu-random,sysu-official"  # the release's own galleries, and the data set's


def base(c: ml_collections.ConfigDict) -> None:
    """Its base method: no non-local blocks, mean pooling, batch-hard triplet loss."""
    if c.loss.triplet_variant != "released":
        raise ValueError("the preset 'paper' changes the weighted triplet loss, which 'agw-base' does not have")
    c.model.non_local, c.model.pooling, c.loss.triplet = (), "mean", "hard"


def paper(c: ml_collections.ConfigDict) -> None:
    """AGW as its paper says it (docs/paper_versus_code.md)."""
    c.loss.triplet_variant = "paper"


def caj(c: ml_collections.ConfigDict) -> None:
    """CAJ: AGW with a second visible view of exchanged channels, erasing, squared-difference triplet, flip test."""
    released(c)
    c.model.mirror = True
    c.loss.triplet = "squared"
    c.augment.views, c.augment.erasing = 2, 0.5
    c.train.epochs = 100
