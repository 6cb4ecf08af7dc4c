"""What faults do to a run: each is injected into real runs of launch.py, which are then compared with one left alone.

    python -m benchmarks.faults [kills saves stops disk data damage processes] [--tries=30]

Prints a table: the fault, how often it was injected, what happened, what was lost. Exits with 1 if anything was. Runs
are of the tiny synthetic set on the CPU; `disk` needs the right to mount a file system.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
STOPPED, INTERRUPTED, KILLED = 75, 130, -signal.SIGKILL


class Row(NamedTuple):
    """A line of the table; wrong is what should have been there and was not, or what should not have been."""

    fault: str
    tries: int
    happened: str
    wrong: list[str]

    @property
    def lost(self) -> str:
        return "; ".join(self.wrong)


class Runs:
    """Runs in one folder, with their data and the one left alone, which is made when it is first asked for.

    popen: starts them, called as subprocess.Popen.
    """

    def __init__(self, folder: Path, epochs: int = 30, popen: Callable[..., Any] = subprocess.Popen):
        self.folder, self.epochs, self.popen = folder, epochs, popen

    def start(self, work: Path, *flags: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen:
        """launch.py in a process of its own."""
        command = [sys.executable, "launch.py", "--config=configs/synthetic.py:tiny", f"--workdir={work}"]
        command += [f"--config.data.root={self.folder / 'data'}", "--config.eval.baselines=False"]
        command += [f"--config.train.epochs={self.epochs}", "--config.eval.search=all", "--config.eval.shots=multi"]
        cache = {"JAX_COMPILATION_CACHE_DIR": os.fspath(self.folder / "compiled")}
        cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment = {**cache, **os.environ, "JAX_PLATFORMS": "cpu"}
        files = {"stdout": subprocess.DEVNULL, "stderr": stderr, "text": True}
        return self.popen([*command, *flags], cwd=ROOT, env=environment, **files)

    def run(self, work: Path, *flags: str) -> tuple[int, str]:
        """Exit code and standard error of a run."""
        return ended(self.start(work, *flags, stderr=subprocess.PIPE))

    def whole(self) -> Path:
        """The run left alone."""
        work = self.folder / "whole"
        if not (work / "results.json").exists():
            code, printed = self.run(work)
            assert code == 0, printed
        return work

    def differences(self, work: Path) -> list[str]:
        """What of a finished run is not, bit for bit, what the one left alone has."""
        same = {
            "metrics.jsonl": lambda work: (work / "metrics.jsonl").read_bytes(),
            "rows of results.json": lambda work: json.loads((work / "results.json").read_text())["rows"],
            "the last state": lambda work: (last(work), arrays(work)),
        }
        whole = self.whole()
        found = [name for name, of in same.items() if of(work) != of(whole)]
        rests = [file.name for file in (work / "checkpoints").iterdir() if not file.name.isdecimal()]
        return found + [f"left behind: {rests}"] * bool(rests)

    def resume(self, work: Path) -> tuple[list[str], str]:
        """What is wrong with a run that goes on to its end, and its standard error."""
        code, printed = self.run(work)
        return self.differences(work) if code == 0 else [f"exit code {code}: {printed[-300:]}"], printed


def free_port() -> int:
    """One on which nothing listens."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def ended(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str]:
    """Exit code and standard error of a run, which has so long to end."""
    try:
        printed = process.communicate(timeout=seconds)[1] or ""
    finally:
        process.kill()
    return process.returncode, printed


def refusal(code: int, printed: str, pattern: str) -> list[str]:
    """What is wrong with a run that should have ended with 1 and a single line of a pattern."""
    said = re.findall(pattern, printed, re.MULTILINE)
    good = code == 1 and len(said) == 1 and "Traceback" not in printed
    return [] if good else [f"exit code {code}: {printed[-300:]}"]


def last(work: Path) -> int:
    """Step of the last checkpoint in a workdir, -1 for none."""
    return max((int(p.name) for p in (work / "checkpoints").glob("*") if p.name.isdecimal()), default=-1)


def arrays(work: Path) -> str:
    """The digest that the last checkpoint carries of its arrays; loading compares it with the arrays themselves."""
    file = work / "checkpoints" / str(last(work)) / "_CHECKPOINT_METADATA"
    return json.loads(file.read_text())["custom_metadata"]["arrays"]


def saving(work: Path) -> bool:
    """Whether a checkpoint is being written."""
    with contextlib.suppress(FileNotFoundError):
        return any("tmp" in entry.name for entry in os.scandir(work / "checkpoints"))
    return False


def until(condition: Callable[[], bool], process: subprocess.Popen, pause: float = 0.0005) -> None:
    while process.poll() is None and not condition():
        time.sleep(pause)


def kills(runs: Runs, tries: int, name: str, moment: Callable[[Path], Callable[[], bool]], how: signal.Signals) -> Row:
    """Ends runs at `moment` of their workdir, starts them again with the same command, to their end."""
    expected = {KILLED} if how == signal.SIGKILL else {STOPPED, -signal.SIGTERM}
    hits, number, codes, wrong = 0, 0, set(), []
    while hits < tries and number <= 3 * tries:
        work, code = runs.folder / f"{how.name}-{name.replace(' ', '-')}-{number}", None
        number += 1
        while code is None or code in expected:
            process = runs.start(work)
            if hits < tries:
                until(moment(work), process)
                process.send_signal(how)
            code = ended(process)[0]
            codes.add(code)
            hits += code != 0
        wrong += runs.differences(work) if code == 0 else [f"exit code {code}"]
        shutil.rmtree(work)
    if hits < tries:
        wrong.append(f"the moment came {hits} times in {number} runs")
    if how == signal.SIGTERM and STOPPED not in codes:
        wrong.append(f"exit codes {codes}, never {STOPPED}")
    went = f"{number} run{'s' * (number > 1)} went on to the bits of one left alone"
    return Row(f"{how.name} {name}", hits, "runs differ" if wrong else went, wrong)


def at_random(work: Path) -> Callable[[], bool]:
    """A random moment of a run: while it starts, trains, saves or evaluates."""
    end = time.monotonic() + random.uniform(1, 20)
    return lambda: time.monotonic() > end


def in_a_save(work: Path) -> Callable[[], bool]:
    """A moment at which a checkpoint is being written, not always the first one."""
    passed, before = random.randrange(4), False

    def now() -> bool:
        nonlocal passed, before
        begins = saving(work) and not before
        before = saving(work)
        passed -= begins
        return begins and passed < 0

    return now


def after_a_save(work: Path) -> Callable[[], bool]:
    """A moment while steps are taken."""
    first = last(work)
    return lambda: last(work) > first


@contextlib.contextmanager
def small_disk(folder: Path, size: str, *options: str) -> Iterator[Path]:
    """A file system of its own of that size. Raises PermissionError where none can be mounted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True)
    if done.returncode:
        raise PermissionError(f"{folder}: no file system can be mounted there: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def disk(runs: Runs) -> list[Row]:
    """A disk that is full, at different moments, and one that takes nothing at all; then the disk is given room."""
    rows = []
    happened = "one line names the file; with room again the same command ended with the same bits"
    for size in ("8k", "300k", "1500k"):
        with small_disk(runs.folder / "disk", size) as mounted:
            wrong = refusal(*runs.run(mounted / "run"), "No space left.*")
            subprocess.run(["mount", "-o", "remount,size=100m", mounted], check=True)
            rows.append(Row(f"disk full at {size}", 1, happened, wrong + runs.resume(mounted / "run")[0]))
    with small_disk(runs.folder / "disk", "1m", "ro") as mounted:
        wrong = refusal(*runs.run(mounted / "run"), r"Read-only file system.*\n?\Z")
    return [*rows, Row("read-only workdir", 1, "one line names the folder", wrong)]


def data(runs: Runs) -> Row:
    """The data root vanishes while the network trains, and comes back."""
    runs.whole()  # draws the data
    work, root, away = runs.folder / "vanished", runs.folder / "data", runs.folder / "away"
    process = runs.start(work, stderr=subprocess.PIPE)
    until(lambda: last(work) > 0, process)
    root.rename(away)
    wrong = refusal(*ended(process), "^launch.py:")
    away.rename(root)
    happened = "one line names the picture; with the data back the same command ended with the same bits"
    return Row("data root vanishes", 1, happened, wrong + runs.resume(work)[0])


def damage(runs: Runs, tries: int) -> Row:
    """A file of the last checkpoint of a run after Ctrl-C is lost, cut or changed in one bit; then the run goes on."""
    stopped, wrong, used = runs.folder / "stopped", [], {"the last": 0, "the one before": 0}
    process = runs.start(stopped)
    until(lambda: last(stopped) > 0, process)
    until(after_a_save(stopped), process)  # there is one before the last
    process.send_signal(signal.SIGINT)
    code, printed = ended(process)
    assert code == INTERRUPTED, printed
    assert len(re.findall("^launch.py: stopped after step", printed, re.MULTILINE)) == 1, printed
    assert "Traceback" not in printed, printed
    for number in range(tries):
        work = runs.folder / f"damaged-{number}"
        shutil.copytree(stopped, work)
        files = [f for f in (work / "checkpoints" / str(last(work))).rglob("*") if f.is_file()]
        file = max(files, key=lambda f: f.stat().st_size) if number % 2 else random.choice(files)
        content = bytearray(file.read_bytes())
        if number % 3 == 0 and content:
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
            file.write_bytes(content)
        elif number % 3 == 1:
            file.write_bytes(content[: len(content) // 2])
        else:
            file.unlink()
        found, printed = runs.resume(work)
        used["the one before" if "is damaged" in printed else "the last"] += 1
        wrong += [f"{file.name}: {problem}" for problem in found]
        shutil.rmtree(work)
    happened = f"named if it mattered; went on from {', '.join(f'{n} x {k}' for k, n in used.items())}; the same bits"
    return Row("a file of the last checkpoint damaged", tries, happened, wrong)


def processes(runs: Runs, tries: int) -> Row:
    """One of two processes is killed: the other one ends by itself; one process alone then goes on to the end."""
    wrong, seconds = [], []
    for number in range(tries):
        work = runs.folder / f"pair-{number}"
        where = f"--coordinator=localhost:{free_port()}"
        pair = [runs.start(work, where, "--processes=2", f"--process={i}", stderr=subprocess.PIPE) for i in range(2)]
        until(lambda work=work: last(work) > 0, pair[0], 0.01)
        pair[number % 2].kill()
        begun = time.monotonic()
        code, printed = ended(pair[1 - number % 2])
        seconds.append(time.monotonic() - begun)
        ended(pair[number % 2])
        if code == 0 or "another one is gone" not in printed:
            wrong.append(f"exit code {code}: {printed[-300:]}")
        code, printed = runs.run(work)
        if code or last(work) != last(runs.whole()):
            wrong.append(f"alone: exit code {code}: {printed[-300:]}")
        shutil.rmtree(work)
    happened = f"the other said so and ended within {max(seconds):.0f} s; one process went on to the end"
    return Row("one of two processes killed", tries, happened, wrong)


def main() -> None:
    made = {
        "kills": lambda n: [kills(runs, n, "at a random moment", at_random, signal.SIGKILL)],
        "saves": lambda n: [kills(runs, -(-n // 3), "inside a save", in_a_save, signal.SIGKILL)],
        "stops": lambda n: [kills(runs, -(-n // 3), "while training", after_a_save, signal.SIGTERM)],
        "disk": lambda n: disk(runs),
        "data": lambda n: [data(runs)],
        "damage": lambda n: [damage(runs, -(-n // 3))],
        "processes": lambda n: [processes(runs, -(-n // 6))],
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=made, default=list(made))
    parser.add_argument("--tries", type=int, default=30, help="kills at random moments; other faults have a third")
    arguments, rows = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        print("| fault | tried | what happened | lost |\n|---|---|---|---|", flush=True)
        for section in dict.fromkeys(arguments.sections):
            for row in made[section](arguments.tries):
                rows.append(row)
                print(f"| {row.fault} | {row.tries} | {row.happened} | {row.lost or 'nothing'} |", flush=True)
    sys.exit(any(row.lost for row in rows))


if __name__ == "__main__":
    main()
