"""Train, evaluate, rank, search or report: python launch.py [--config=FILE[:words]] [--mode=MODE] ...

Modes:
train: trains, or goes on where a run stopped, and evaluates; the default.
evaluate: ranks the test images with the run's weights; a table and pictures.
extract: writes the features of the test images.
rank: ranks a features file of any program.
report: writes one page about the run or a features file.
embed: writes the features of a folder of your own pictures.
search: ranks one folder of your own pictures against another.
correspond: draws what two of your own pictures show in common.
ablate: trains and ranks the studies of configs/ablation.py.
export: writes the embedding network and AIM as programs that need no Python of ours.
prepare: packs a data set's images, so that they are read faster.
doctor: lists what is wrong with a data set on disk.
compare: tests whether two results.json differ by chance.

Examples:
python launch.py
python launch.py --config=configs/sysu.py:multishot --config.data.root=DIR --mode=doctor
python launch.py --config=configs/custom.py --mode=rank --features=query.npz --gallery=gallery.npz
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import multiprocessing
import os
import re
import signal
import sys
import threading
import time

import jax
from absl import app, flags, logging
from flax import traverse_util
from ml_collections import config_flags

from configs import sysu
from input_pipeline.index import DataError
from modes import correspond, exporting, folders, ranking, reporting, studies, training
from saai_jax import memory, parallel
from saai_jax.checkpoint import CheckpointError
from saai_jax.features import FeaturesError
from saai_jax.ranking.results import ResultsError
from saai_jax.train import Stopped
from saai_jax.weights.pth import WeightsError

HERE = os.path.dirname(os.path.abspath(__file__))
EXPECTED = (
    DataError,
    CheckpointError,
    FeaturesError,
    ResultsError,
    WeightsError,
    ValueError,
    FloatingPointError,
    OSError,
)
STOPPED = 75  # exit code after SIGTERM: sysexits.h's "try again", for the same command goes on
INTERRUPTED = 128 + signal.SIGINT  # exit code after Ctrl-C, as of what a shell starts
COMING, HEARTBEAT = 40, 30  # seconds that processes wait for each other, and after which a silent one is taken for dead
FLAGS = flags.FLAGS

FILES = ("features", "gallery", "columns", "infrared_cameras")
# What each mode does, and the flags that are arguments of it; elsewhere they are refused, for they would be ignored.
MODES = {
    "train": (training.train, ("accept_changes",)),
    "evaluate": (ranking.evaluate_run, ()),
    "extract": (ranking.extract, ()),
    "rank": (ranking.rank, FILES),
    "report": (reporting.report, FILES),
    "embed": (folders.embed, ("pictures", "modality", "identities", "skip_unreadable")),
    "search": (folders.search, ("query", "gallery", "modality", "top", "skip_unreadable")),
    "correspond": (correspond.correspond, ("pair", "pairs", "modality", "mutual", "mask")),
    "ablate": (studies.ablate, ("features", "accept_changes")),
    "export": (exporting.export, ("format",)),
    "prepare": (training.prepare, ()),
    "doctor": (training.doctor, ()),
}
ARGUMENTS = dict.fromkeys(flag for _, arguments in MODES.values() for flag in arguments)
SHARED = ("train", "evaluate", "extract", "embed")  # modes that several processes can share

flags.DEFINE_enum("mode", "train", [*MODES, "compare"], "What to do, see above.")
flags.DEFINE_string("workdir", None, "Where the run is kept; workdir/<config> by default.")
flags.DEFINE_bool("traceback", False, "Where an error came from, not only what it is.")
flags.DEFINE_list("features", None, "rank, report, ablate: FILE; RegDB: ten, after commas; carriers: NAME=FILE,...")
flags.DEFINE_string("gallery", None, "rank, report: the gallery's features beside the queries'; search: a folder.")
flags.DEFINE_string("query", None, "--mode=search: the folder of the query pictures.")
flags.DEFINE_string("pictures", None, "--mode=embed: the folder of the pictures.")
flags.DEFINE_enum(
    "modality", "infrared", ["infrared", "visible"], "embed: of the pictures; search: of the queries; correspond: of A."
)
flags.DEFINE_bool("identities", False, "--mode=embed: folders directly below --pictures are named by identity.")
flags.DEFINE_bool("skip_unreadable", False, "embed, search: leave out pictures that cannot be read.")
flags.DEFINE_integer("top", 10, "--mode=search: how many images are listed for a query.", lower_bound=1)
flags.DEFINE_multi_string("pair", [], "--mode=correspond: A,B, two picture files; A,B,GROUP; any number of times.")
flags.DEFINE_string("pairs", None, "--mode=correspond: a file of lines A,B or A,B,GROUP.")
flags.DEFINE_bool("mutual", False, "--mode=correspond: leave correspondences that are the strongest both ways.")
flags.DEFINE_bool("mask", False, "--mode=correspond: leave correspondences between what both masks show.")
flags.DEFINE_enum("format", "stablehlo", [*exporting.FORMATS], "--mode=export: what kind of program.")
flags.DEFINE_string("columns", "", "rank, report: their names of our fields, embedding=feat,identity=label,...")
flags.DEFINE_list("infrared_cameras", [], "rank, report: cameras of infrared images, where no modality is stored.")
flags.DEFINE_bool("accept_changes", False, "train, ablate: go on with a run whose configuration was another.")
flags.DEFINE_string(
    "coordinator", None, "Many processes: HOST:PORT of the first; auto asks the scheduler (SLURM, TPU)."
)
flags.DEFINE_integer("processes", None, "With --coordinator=HOST:PORT: how many processes there are.", lower_bound=1)
flags.DEFINE_integer("process", None, "With --coordinator=HOST:PORT: which one this is, from 0.", lower_bound=0)


def refuse_others_flags() -> None:
    """Raises ValueError for a flag of another mode."""
    takers = {flag: [mode for mode, (_, names) in MODES.items() if flag in names] for flag in ARGUMENTS}
    for flag, modes in (takers | dict.fromkeys(("coordinator", "processes", "process"), SHARED)).items():
        if FLAGS[flag].present and FLAGS.mode not in modes:
            named = " or ".join(filter(None, [", ".join(modes[:-1]), modes[-1]]))
            raise ValueError(f"--{flag} is for --mode={named}, not for {FLAGS.mode}")


def refuse_unclear(words: list[str]) -> None:
    """Raises ValueError for words that are no flags, and for features without a protocol."""
    if words and FLAGS.mode != "compare":
        mode = difflib.get_close_matches(words[0], MODES, 1)
        meant = f"--mode={mode[0]}" if mode else f"--config={words[0]} or --features={words[0]}"
        raise ValueError(f"{words[0]!r} is no flag; did you mean {meant}?")
    if FLAGS.features and FLAGS.mode in ("rank", "report") and not FLAGS["config"].present:
        known = ", ".join(file for file in configurations() if "ablation" not in file)
        raise ValueError(f"--features needs a protocol to be ranked by: name one with --config=..., of {known}")


def end_at_second_interrupt() -> None:
    """Ends the process at the second Ctrl-C, even while JAX computes and the main thread sees no signal."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)

    def watch() -> None:
        received = 0
        while received < 2:
            received += os.read(read, 1) == bytes([signal.SIGINT])
        leave(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


def connect() -> None:
    """Connects this process with the others, if there are any, before JAX looks for devices. Raises ValueError."""
    address, number, own = FLAGS.coordinator, FLAGS.processes, FLAGS.process
    if (number is None) != (own is None) or (number is not None and address in (None, "auto")):
        raise ValueError("--processes and --process go together, with --coordinator=HOST:PORT")
    if address and address != "auto" and number is None:
        raise ValueError(f"--coordinator={address} needs --processes and --process")
    if not address:
        return
    where = {} if address == "auto" else {"coordinator_address": address, "num_processes": number, "process_id": own}
    parallel.connect(COMING, HEARTBEAT, **where)
    if not parallel.primary():
        logging.set_verbosity(logging.WARNING)


def leave(code: int) -> None:
    """Ends the process now: threads of a failed save, or the other processes, may be waiting for what never comes."""
    for child in multiprocessing.active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more, or its disk is full
            stream.flush()
    os._exit(code)


def unraised(error) -> None:
    """sys.unraisablehook: as Python's, but silent on what a save that failed leaves behind.

    Its writes end after the loop that waited for them; the failure itself is raised where the save is waited for.
    """
    if str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)


def main(arguments: list[str]) -> None:
    """Runs the mode; an expected error is one message, not a traceback."""
    memory.keep_freed()
    end_at_second_interrupt()
    sys.unraisablehook = unraised
    logging.set_verbosity(logging.INFO)
    # The libraries log every step they take to the same place; of theirs only warnings are for the user, and of orbax's
    # errors the one that is raised.
    logging.get_absl_handler().addFilter(
        lambda r: "site-packages" not in r.pathname or (r.levelno >= 30 and "orbax" not in r.pathname)
    )
    name = config_flags.get_config_filename(FLAGS["config"])
    name = os.path.basename(name).replace(".py", "").replace(":", "-")
    # What ranks other people's features must not write over a run's own results.
    workdir = FLAGS.workdir or os.path.join(
        "workdir", f"rank-{name}" if FLAGS.features and FLAGS.mode != "ablate" else name
    )
    started = time.monotonic()
    try:
        refuse_unclear(arguments[1:])
        refuse_others_flags()
        connect()
        if FLAGS.mode == "compare":
            ranking.compare(arguments[1:])
        else:
            function, names = MODES[FLAGS.mode]
            function(FLAGS.config, workdir, **{name: FLAGS[name].value for name in names})
    except Stopped as error:
        print(f"launch.py: {error}", file=sys.stderr)
        parallel.barrier("stopped")  # or the first to go would take the others for orphans
        leave(INTERRUPTED if error.signal == signal.SIGINT else STOPPED)
    except KeyboardInterrupt:
        print(f"launch.py: {FLAGS.mode} was interrupted", file=sys.stderr)
        leave(INTERRUPTED)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(f"launch.py: process {jax.process_index()} stops, another one is gone: {error}", file=sys.stderr)
        leave(1)
    except EXPECTED as error:
        if FLAGS.traceback:
            raise
        print(f"launch.py: {error} (--traceback shows where)", file=sys.stderr)
        leave(1)
    parallel.barrier("the end")
    logging.info("%s took %.0f s", FLAGS.mode, time.monotonic() - started)


def configurations() -> list[str]:
    """The files of configs/ that --config takes, as they are typed here."""
    files = sorted(glob.glob(os.path.join(HERE, "configs", "*.py")))
    return [os.path.relpath(file) for file in files if "def get_config(" in open(file, encoding="utf-8").read()]


def advised(message: str) -> str:
    """The message of a wrong flag, with what was probably meant."""
    meant = {}
    if wrong := re.match("flag --mode=(.*): value should be one of", message):
        meant = {mode: f"--mode={mode}" for mode in (*MODES, "compare")}
    elif wrong := re.match("Unknown command line flag '([^']*)'$", message):
        for field in traverse_util.flatten_dict(sysu.get_config().to_dict(), sep="."):
            spelled = field, field.replace(".", ""), field.replace(".", "_"), field.rpartition(".")[2]
            meant |= dict.fromkeys(spelled, f"--config.{field}")
    close = difflib.get_close_matches(wrong[1], meant, 1) if wrong else []
    return f"{message}; did you mean {meant[close[0]]}?" if close else message


def refuse_absent_configuration(argv: list[str]) -> None:
    """Ends the process if --config names a file that is not there."""
    for name in (word.partition("=")[2] for word in argv if re.match("--?config=", word)):
        file, colon, words = name.partition(":")
        if not os.path.isfile(file):
            known = {os.path.basename(path).removesuffix(".py"): path for path in configurations()}
            close = difflib.get_close_matches(os.path.basename(file).removesuffix(".py"), known, 1, cutoff=0.5)
            meant = f"Did you mean --config={known[close[0]]}{colon}{words}? " if close else ""
            sys.exit(f"launch.py: --config={name}: no such file. {meant}There are {', '.join(known.values())}")


def parse(argv: list[str]) -> list[str]:
    """absl's flags, with a wrong one as a message instead of a traceback."""
    refuse_absent_configuration(argv)
    try:
        # Here and not above: without --config, the defaults' overrides are read at once.
        config_flags.DEFINE_config_file(
            "config", os.path.join(HERE, "configs", "synthetic.py"), "A file in configs/, with presets after a colon."
        )
        return FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, OSError) as error:
        # ml_collections puts the whole traceback of a config file's error into the message; a KeyError quotes its own,
        # whose last line is a suggestion.
        message = str(error.args[0] if isinstance(error, KeyError) else error).strip()
        message = message.splitlines()[-1] if "Traceback" in message else message
        message = message.rpartition("\\n")[2].strip("'") if "\\n" in message else message
        sys.exit(f"launch.py: {advised(message)}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
