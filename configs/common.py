"""The fields of every configuration, and what the words after a configuration's colon do; a system's file adds its own.

A data set's file calls `experiment`. The order: these fields, the system's numbers for the data set, what the data
set's file changes, and then the words.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import ml_collections

from configs import agw, lba, mpanet, saai, sim_baseline, wrimnet

Preset = Callable[[ml_collections.ConfigDict], None]


def fields(dataset: str) -> ml_collections.ConfigDict:
    """What every system has, for a data set: sysu, regdb, llcm, market1501, dukemtmc; to rank only: custom."""
    c = ml_collections.ConfigDict()
    c.seed = 0
    c.on_nonfinite = "stop"  # or skip: leave out and count steps whose loss or gradient is not finite
    c.dataset = dataset  # whose layout and protocol
    c.system = ""  # a name of saai_jax.systems.SYSTEMS

    c.data = d = ml_collections.ConfigDict()
    d.root = f"data/{dataset}"  # the folder as its owners ship it; "" for a synthetic set: a folder of its own in data/
    d.split_dir = ""  # sysu: where *_id.txt and rand_perm_cam.mat are, if not in root/exp
    d.published = True  # refuse a data set whose counts are not the published ones
    d.fold = 1  # regdb: which of the ten splits
    d.query_list, d.gallery_list = "", ""  # protocol custom: text files with one path a line
    d.rule = "same-camera"  # protocol custom: what is skipped: none, same-camera or sysu
    d.synthetic = ""  # tiny, small or large: draws this set into root if it is not there; "" for a real set
    d.synthetic_seed = 0
    d.validation = False  # hold training identities out, to choose a checkpoint by (sysu: the official 99)
    d.skip_incomplete = False  # leave out identities with too few images of a modality, instead of refusing them
    d.verify = True  # decode every picture once before training; a pack needs no check
    d.packed = ""  # folder of array_record packs made by --mode=prepare; "" reads the image files
    d.resized = ""  # folder of pixels at height x width made by --mode=prepare; "" decodes the files in every epoch
    d.height, d.width = 288, 144  # pixels
    d.resample = "bilinear"  # or lanczos: how images get this size
    d.sampler = "paired"  # a name of input_pipeline.sampling.SAMPLERS
    d.identities, d.images = 0, 0  # of a batch; half the images of an identity are infrared
    d.threads, d.workers = 8, 0  # threads that decode, in so many processes beside the main one

    c.model = m = ml_collections.ConfigDict()
    m.dtype = "float32"  # or bfloat16, for convolutions; statistics and losses stay float32
    m.precision = "default"  # high or highest: more exact float32 in training, slower (docs/usage.md)
    m.remat = False  # less memory: each block is computed again for its gradient
    m.identities = 0  # classes of the classifiers; counted from the training set and kept with the run
    m.weights = ""  # .pth: torchvision's ResNet-50 to start from, or the original's checkpoint to evaluate

    c.loss, c.augment = ml_collections.ConfigDict(), ml_collections.ConfigDict()  # the system's

    c.train = t = ml_collections.ConfigDict()
    t.epochs, t.learning_rate = 0, 0.0
    t.warmup, t.milestones, t.decay = 0, (), 1.0  # epochs, and the factor at each milestone
    t.log_every = 50  # steps
    t.save_every, t.validate_every = 1, 4  # epochs

    c.eval = e = ml_collections.ConfigDict()
    e.checkpoint = "last"  # or best, by mAP on the validation identities
    e.batch = 128
    e.precision = "highest"  # default or high: faster on a GPU or TPU, and features are rounded
    e.protocol = ""  # names after a comma, such as sysu-official,sysu-random; "" for the data set's own
    e.search, e.shots = "all,indoor", "single,multi"  # sysu: which settings are reported
    e.baselines = False  # also rank by chance and by pixels
    e.extract_split = "test"  # what --mode=extract writes

    c.inference = "cosine,aim"  # rows of the results: any of cosine, euclidean, aim, sim, sgr, mnnr, k_reciprocal
    c.aim = ml_collections.ConfigDict()
    c.aim.variant = "released"  # or paper: Eq. 6 to 10 as printed
    c.aim.remove, c.aim.expand = True, True  # the two steps of Table 6
    c.aim.sysu_all_single, c.aim.sysu_all_multi = (4, 1), (20, 6)  # (k1, k2)
    c.aim.sysu_indoor_single, c.aim.sysu_indoor_multi = (2, 2), (20, 6)
    c.aim.regdb = (8, 2)
    c.aim.llcm = c.aim.market1501 = c.aim.dukemtmc = c.aim.custom = c.aim.own = (
        8,
        2,
    )  # ours: no published value; own: --mode=search
    # The arguments of saai_jax.affinity.sim, which explains them; kq, kg and what follows alpha are our choice.
    c.sim = ml_collections.ConfigDict()
    c.sim.graph, c.sim.mutual = True, True  # its two kinds of reasoning: SGR and MNNR
    c.sim.scale, c.sim.paths, c.sim.neighbours = 0.01, 9, 9
    c.sim.kq, c.sim.kg, c.sim.alpha = 20, 20, 0.3
    c.sim.own, c.sim.edges, c.sim.expand, c.sim.normalise = True, "nearest", False, True
    c.k_reciprocal = ml_collections.ConfigDict()
    c.k_reciprocal.k1, c.k_reciprocal.k2, c.k_reciprocal.weight = 20, 6, 0.3
    c.k_reciprocal.neighbours = "all"  # or query, as some released VI-ReID code; both look at all queries at once
    c.k_reciprocal.variant = "released"  # or paper
    return c


def validate(config: ml_collections.ConfigDict) -> None:
    """Trains on fewer identities and keeps the checkpoint that ranks the others best."""
    config.data.validation, config.eval.checkpoint = True, "best"


def report(field: str, value: str) -> Preset:
    """A preset that reports one kind of SYSU-MM01 setting; several of one field add up."""
    everything = fields("sysu").eval[field]

    def preset(config):
        named = config.eval[field]
        config.eval[field] = value if named == everything else f"{named},{value}"

    return preset


def visible_alone(config: ml_collections.ConfigDict) -> None:
    """For a data set of visible images: cameras take the place of modalities, and there is one stem."""
    config.data.sampler = "cameras"
    if "stem_of_modality" in config.model:
        config.model.stem_of_modality = False


# The words that choose a system: its numbers for config.dataset, and what is changed after the data set's file.
SYSTEMS: dict[str, tuple[Preset, Preset]] = {
    "saai": (saai.released, lambda config: None),
    "baseline": (saai.released, saai.baseline),
    "agw": (agw.released, lambda config: None),
    "agw-base": (agw.released, agw.base),
    "caj": (agw.caj, lambda config: None),
    "mpanet": (mpanet.released, lambda config: None),
    "lba": (lba.released, lambda config: None),
    "lba-baseline": (lba.released, lba.baseline),
    "pcb": (lba.released, lba.pcb_baseline),
    "pcb-lba": (lba.released, lba.pcb),
    "sim-baseline": (sim_baseline.paper, lambda config: None),
    "wrimnet": (wrimnet.published, lambda config: None),
}
PAPER = {"saai": saai.paper, "agw": agw.paper}  # by config.system


def paper(config: ml_collections.ConfigDict) -> None:
    """The system as its paper says it. Raises ValueError for one that is released as printed."""
    if config.system not in PAPER:
        raise ValueError(f"the system {config.system!r} has no variant 'paper'")
    PAPER[config.system](config)


PRESETS: dict[str, Preset] = {
    "released": lambda config: None,
    "paper": paper,
    "validate": validate,
}
REPORTED = {
    "singleshot": report("shots", "single"),
    "multishot": report("shots", "multi"),
    "all": report("search", "all"),
    "indoor": report("search", "indoor"),
}


def experiment(
    dataset: str, argument: str | None, own: dict[str, Preset] | None = None, change: Preset = lambda config: None
) -> ml_collections.ConfigDict:
    """The configuration of a data set with the comma-separated words after a config file's colon.

    own: the file's own words; change: what it sets for every system. Raises ValueError for an unknown word, with a
    suggestion, and for words that exclude each other.
    """
    known = {**PRESETS, **(own or {})}
    words = dict.fromkeys(filter(None, (argument or "").split(",")))
    for word in words:
        if word not in known and word not in SYSTEMS:
            every = [*SYSTEMS, *known]
            close = difflib.get_close_matches(word, every, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown preset {word!r}; known are {', '.join(every)}.{hint}")
    systems = [word for word in words if word in SYSTEMS]
    for alike in (systems, [word for word in words if word in ("released", "paper")]):
        if len(alike) > 1:
            raise ValueError(f"the presets {' and '.join(map(repr, alike))} exclude each other")
    config = fields(dataset)
    numbers, variant = SYSTEMS[systems[0] if systems else "saai"]
    numbers(config)
    change(config)
    # The common words first: a file's own (a size, say) have the last say in whatever order they are written.
    for word in sorted(words, key=lambda word: word not in PRESETS):
        if word in known:
            known[word](config)
    variant(config)
    return config
