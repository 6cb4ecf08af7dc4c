"""Every field of a configuration, once, at the released values for SYSU-MM01; the files beside this one change them."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import ml_collections

Preset = Callable[[ml_collections.ConfigDict], None]


def get_config() -> ml_collections.ConfigDict:
    """The released recipe: ResNet-50 with MAM, 10 identities x 8 images, 160 epochs (docs/paper_versus_code.md)."""
    c = ml_collections.ConfigDict()
    c.seed = 0
    c.on_nonfinite = "stop"  # or skip: leave out and count steps whose loss or gradient is not finite
    c.dataset = "sysu"  # whose layout and protocol: sysu, regdb, llcm; to rank only: market1501, dukemtmc, custom

    c.data = d = ml_collections.ConfigDict()
    d.root = "data/sysu"  # the folder as its owners ship it; "" for a synthetic set: a folder of its own in data/
    d.split_dir = ""  # sysu: where *_id.txt and rand_perm_cam.mat are, if not in root/exp
    d.published = True  # refuse a data set whose counts are not the published ones
    d.fold = 1  # regdb: which of the ten splits
    d.query_list, d.gallery_list = "", ""  # protocol custom: text files with one path a line
    d.rule = "same-camera"  # protocol custom: what is skipped: none, same-camera or sysu
    d.synthetic = ""  # tiny, small or large: draw this set into root if it is not there; "" for a real set
    d.synthetic_seed = 0
    d.validation = False  # hold training identities out, to choose a checkpoint by (sysu: the official 99)
    d.skip_incomplete = False  # leave out identities with too few images of a modality, instead of refusing them
    d.verify = True  # decode every picture once before training; a pack needs no check
    d.packed = ""  # folder of array_record packs made by --mode=prepare; "" reads the image files
    d.resized = ""  # folder of pixels at height x width made by --mode=prepare; "" decodes every picture every time
    d.height, d.width = 288, 144  # pixels
    d.identities, d.images = 10, 8  # of a batch; half the images of an identity are infrared
    d.threads, d.workers = 8, 0  # threads that decode, in so many processes beside the main one

    c.model = m = ml_collections.ConfigDict()
    m.stages, m.width, m.bottleneck = (3, 4, 6, 3), 64, True  # ResNet-50
    m.stem_pool = True  # the max pooling after the first convolution
    m.mam = (3, 4)  # stages followed by a modality attention block; () for none
    m.pooling, m.parts = "prototypes", 7  # prototypes (SAFL), stripes or global
    m.aggregate_position = False  # Eq. 2 as printed: parts pool the position embedding too
    m.dtype = "float32"  # or bfloat16, for convolutions; statistics and losses stay float32
    m.recompute = 0  # 1: less memory, each block is computed again for its gradient; n > 1: in n parts of the batch too
    m.identities = 0  # classes of the classifiers; counted from the training set and kept with the run
    m.weights = ""  # .pth: torchvision's ResNet-50 to start from, or a whole SAAI model to evaluate

    c.loss = s = ml_collections.ConfigDict()
    s.separation, s.rho1, s.rho2 = 1.0, 0.01, 0.7  # L_cs: weight and margins (Eq. 5)
    s.diversity, s.diversity_variant = 0.25, "released"  # L_pd: lambda, and released or paper (Eq. 4)
    s.mutual_variant = "released"  # L_cm: released or paper (supplement, Eq. 3)

    c.augment = a = ml_collections.ConfigDict()
    a.pad = 10  # pixels, mirrored
    a.erasing = 0.5  # probability
    a.grayscale = "channel"  # or luminance

    c.train = t = ml_collections.ConfigDict()
    t.epochs = 160
    t.learning_rate, t.weight_decay = 3.5e-4, 5e-4  # Adam; the decay is L2 in the gradient
    t.warmup, t.milestones, t.decay = 10, (80, 120), 0.1  # epochs, and the factor at each milestone
    t.teacher_rate = 0.02  # of the mean classifiers; falls as 100 / (epoch + 1) from epoch 100
    t.log_every = 50  # steps
    t.save_every, t.validate_every = 1, 4  # epochs

    c.eval = e = ml_collections.ConfigDict()
    e.checkpoint = "last"  # or best, by mAP on the validation identities
    e.batch = 128
    e.protocol = ""  # names after a comma, such as sysu-official,sysu-random; "" for the data set's own
    e.search, e.shots = "all,indoor", "single,multi"  # sysu: which settings are reported
    e.baselines = False  # also rank by chance and by pixels
    e.extract_split = "test"  # what --mode=extract writes

    c.inference = "cosine,aim"  # rows of the results: any of cosine, euclidean, aim, sim, k_reciprocal
    c.aim = i = ml_collections.ConfigDict()
    i.variant = "released"  # or paper: Eq. 6 to 10 as printed
    i.remove, i.expand = True, True  # the two steps of Table 6
    i.sysu_all_single, i.sysu_all_multi = (4, 1), (20, 6)  # (k1, k2)
    i.sysu_indoor_single, i.sysu_indoor_multi = (2, 2), (20, 6)
    i.regdb = (8, 2)
    i.llcm = i.market1501 = i.dukemtmc = i.custom = i.own = (8, 2)  # ours: no published value; own: --mode=search
    # The arguments of saai_jax.affinity.sim, which says what they are; kq, kg and what follows alpha are our choice.
    c.sim = i = ml_collections.ConfigDict()
    i.graph, i.mutual = True, True  # its two kinds of reasoning
    i.scale, i.paths, i.neighbours, i.kq, i.kg, i.alpha = 0.01, 9, 9, 20, 20, 0.3
    i.own, i.edges, i.expand, i.normalise = True, "nearest", False, True
    c.k_reciprocal = i = ml_collections.ConfigDict()
    i.k1, i.k2, i.weight = 20, 6, 0.3
    i.neighbours = "all"  # or query, as some released VI-ReID code; both look at all queries at once
    i.variant = "released"  # or paper
    return c


def paper(config: ml_collections.ConfigDict) -> None:
    """Every switch as the paper says it, where it differs from the released code (docs/paper_versus_code.md)."""
    config.data.identities = 16
    config.model.mam = ()
    config.model.aggregate_position = True
    config.loss.diversity, config.loss.diversity_variant = 0.5, "paper"
    config.loss.mutual_variant = "paper"
    config.augment.grayscale = "luminance"
    config.train.teacher_rate = 0.2
    config.aim.variant = "paper"
    config.aim.sysu_indoor_single = (4, 1)


def validate(config: ml_collections.ConfigDict) -> None:
    """Trains on fewer identities and keeps the checkpoint that ranks the others best."""
    config.data.validation, config.eval.checkpoint = True, "best"


def report(field: str, value: str) -> Preset:
    """A preset that reports one kind of SYSU-MM01 setting, with others of the same field that are named before it."""
    everything = get_config().eval[field]

    def preset(config):
        named = config.eval[field]
        config.eval[field] = value if named == everything else f"{named},{value}"

    return preset


PRESETS = {"released": lambda config: None, "paper": paper, "validate": validate}
REPORTED = {
    "singleshot": report("shots", "single"),
    "multishot": report("shots", "multi"),
    "all": report("search", "all"),
    "indoor": report("search", "indoor"),
}


def apply(config: ml_collections.ConfigDict, argument: str | None, own: dict[str, Preset] | None = None) -> None:
    """Applies the comma-separated presets after a config file's colon: the common ones and the file's own.

    Raises ValueError for an unknown word, with a suggestion, and for words that exclude each other.
    """
    known = {**PRESETS, **(own or {})}
    words = dict.fromkeys(filter(None, (argument or "").split(",")))
    if {"released", "paper"} <= words.keys():
        raise ValueError("the presets 'released' and 'paper' exclude each other")
    # The common ones first: a file's own words (a size, say) have the last say in whatever order they are written.
    for word in sorted(words, key=lambda word: word not in PRESETS):
        if word not in known:
            close = difflib.get_close_matches(word, known, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown preset {word!r}; known are {', '.join(known)}.{hint}")
        known[word](config)
