"""LbA's numbers for a data set: the released ones, those of its baseline, and PCB with and without it."""

from __future__ import annotations

import ml_collections


def released(c: ml_collections.ConfigDict) -> None:
    """Two stems and a shared ResNet-50, CMAlign on stages 3 and 4, 8 identities x (4 + 4) images, 81 epochs of SGD."""
    c.system = "lba"
    c.data.sampler = "replacement"  # CMAlign needs its order: the two halves of a batch are of the same identities
    c.data.resample = "lanczos"
    c.data.identities, c.data.images = 8, 8
    m = c.model
    m.stages, m.width, m.bottleneck = (3, 4, 6, 3), 64, True  # ResNet-50
    m.stem_pool = True  # the max pooling after the first convolution
    m.stem_of_modality = True  # a stem for each modality; False where there is one
    m.head = "gem"  # or pcb: six stripes, each with a classifier of its own

    c.loss = s = ml_collections.ConfigDict()
    s.triplet = True  # L_ID has a batch-hard triplet loss beside the cross entropy
    s.margin = 0.3  # of it
    s.consistency, s.dense = 1.0, 0.5  # weights of L_IC and L_DT; without both there is no CMAlign
    s.dense_margin = 0.3
    s.cross_batch = False  # True: as PyTorch 1.7 computed the release (docs/paper_versus_code.md)

    t = c.train
    t.epochs = 81
    t.learning_rate, t.weight_decay = 0.1, 5e-4  # SGD, momentum 0.9; the rate is that of neck and classifier
    t.backbone_factor = 0.1  # what the others' rate is of it
    t.warmup, t.milestones, t.decay = 10, (20, 50), 0.1  # epochs, and the factor at each milestone
    if c.dataset == "sysu":
        c.eval.protocol = "sysu-random,sysu-official"  # the release's own galleries, and the data set's


def baseline(c: ml_collections.ConfigDict) -> None:
    """Its baseline: cross entropy and batch-hard triplet loss alone."""
    c.loss.consistency = c.loss.dense = 0.0


def pcb(c: ml_collections.ConfigDict) -> None:
    """PCB's stripes (ECCV 2018) learn with CMAlign, by cross entropy as PCB's paper has it (LbA, supplement S2)."""
    c.model.head, c.loss.triplet = "pcb", False


def pcb_baseline(c: ml_collections.ConfigDict) -> None:
    """PCB alone."""
    pcb(c)
    baseline(c)
