"""SAAI's numbers for a data set: the released ones, those of the paper, and the baseline of its Table 3."""

from __future__ import annotations

import ml_collections


def released(c: ml_collections.ConfigDict) -> None:
    """ResNet-50 with MAM, 10 identities x 8 images (docs/paper_versus_code.md); RegDB: no MAM, 4 identities."""
    c.system = "saai"
    c.data.identities, c.data.images = 10, 8
    m = c.model
    m.stages, m.width, m.bottleneck = (3, 4, 6, 3), 64, True  # ResNet-50
    m.stem_pool = True  # the max pooling after the first convolution
    m.mam = (3, 4)  # stages followed by a modality attention block; () for none
    m.pooling, m.parts = "prototypes", 7  # prototypes (SAFL), stripes or global
    m.aggregate_position = False  # Eq. 2 as printed: parts pool the position embedding too
    m.neck = "dual"  # a branch for each modality, or single

    c.loss = s = ml_collections.ConfigDict()
    s.separation, s.rho1, s.rho2 = 1.0, 0.01, 0.7  # L_cs: weight and margins (Eq. 5)
    s.diversity, s.diversity_variant = 0.25, "released"  # L_pd: lambda, and released or paper (Eq. 4)
    s.mutual_variant = "released"  # L_cm: released or paper (supplement, Eq. 3)

    c.augment = a = ml_collections.ConfigDict()
    a.pad = 10  # pixels, mirrored
    a.erasing = 0.5  # probability
    a.grayscale = "channel"  # or luminance

    t = c.train
    t.epochs = 160
    t.learning_rate, t.weight_decay = 3.5e-4, 5e-4  # Adam; the decay is L2 in the gradient
    t.warmup, t.milestones, t.decay = 10, (80, 120), 0.1  # epochs, and the factor at each milestone
    t.teacher_rate = 0.02  # of the mean classifiers; falls as 100 / (epoch + 1) from epoch 100
    if c.dataset == "regdb":
        c.data.identities = 4
        m.mam = ()


def paper(c: ml_collections.ConfigDict) -> None:
    """Every switch as the paper says it, where it differs from the released code (docs/paper_versus_code.md)."""
    c.data.identities = 16
    c.model.mam = ()
    c.model.aggregate_position = True
    c.loss.diversity, c.loss.diversity_variant = 0.5, "paper"
    c.loss.mutual_variant = "paper"
    c.augment.grayscale = "luminance"
    c.train.teacher_rate = 0.2
    c.aim.variant = "paper"
    c.aim.sysu_indoor_single = (4, 1)


def baseline(c: ml_collections.ConfigDict) -> None:
    """Table 3's baseline: six horizontal stripes and the global part, a single BNNeck, L_id alone."""
    c.model.pooling, c.model.parts, c.model.neck = "stripes", 6, "single"
    c.loss.separation = c.loss.diversity = 0.0
