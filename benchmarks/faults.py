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
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
STOPPED, KILLED = 75, -signal.SIGKILL


class Row(NamedTuple):
    """A line of the table; lost is what should have been there and was not, "" for nothing."""

    fault: str
    tries: int
    happened: str
    lost: str


class Runs:
    """Runs in one folder: `where` they read, and the one left alone, made when it is first asked for."""

    def __init__(self, folder: Path, epochs: int = 30):
        self.folder, self.epochs = folder, epochs

    def start(self, work: Path, *flags: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen:
        """launch.py in a process of its own."""
        command = [sys.executable, "launch.py", "--config=configs/synthetic.py:tiny", f"--workdir={work}"]
        command += [f"--config.data.root={self.folder / 'data'}", "--config.eval.baselines=False"]
        command += [f"--config.train.epochs={self.epochs}", "--config.eval.search=all", "--config.eval.shots=multi"]
        cache = {"JAX_COMPILATION_CACHE_DIR": os.fspath(self.folder / "compiled")}
        cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment = {**cache, **os.environ, "JAX_PLATFORMS": "cpu"}
        return subprocess.Popen(
            [*command, *flags], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, text=True
        )

    def run(self, work: Path, *flags: str) -> tuple[int, str]:
        """Exit code and standard error of a run."""
        process = self.start(work, *flags, stderr=subprocess.PIPE)
        return _ended(process)

    def whole(self) -> Path:
        """The run left alone."""
        work = self.folder / "whole"
        if not (work / "results.json").exists():
            code, printed = self.run(work)
            assert code == 0, printed
        return work

    def differences(self, work: Path) -> list[str]:
        """What of a finished run is not, bit for bit, what the one left alone has."""
        whole, found = self.whole(), []
        if (work / "metrics.jsonl").read_bytes() != (whole / "metrics.jsonl").read_bytes():
            found.append("metrics.jsonl")
        if _rows(work) != _rows(whole):
            found.append("rows of results.json")
        if last(work) != last(whole) or arrays(work) != arrays(whole):
            found.append("the last state")
        if rests := [name.name for name in (work / "checkpoints").iterdir() if not name.name.isdecimal()]:
            found.append(f"left behind: {rests}")
        return found


def free_port() -> int:
    """One on which nothing listens."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def _ended(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str]:
    try:
        printed = process.communicate(timeout=seconds)[1] or ""
    finally:
        process.kill()
    return process.returncode, printed


def _rows(work: Path) -> list:
    return json.loads((work / "results.json").read_text())["rows"]


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
    hits, codes, wrong, number = 0, set(), [], 0
    while hits < tries:
        if number > 3 * tries:
            wrong.append(f"the moment came {hits} times in {number} runs")
            break
        work = runs.folder / f"{how.name}-{name.replace(' ', '-')}-{number}"
        number += 1
        while True:
            process = runs.start(work)
            if hits < tries:
                until(moment(work), process)
                process.send_signal(how)
            code = _ended(process)[0]
            codes.add(code)
            if code == 0:
                break
            hits += 1
            expected = {KILLED} if how == signal.SIGKILL else {STOPPED, -signal.SIGTERM}
            if code not in expected:
                wrong.append(f"exit code {code}")
                break
        wrong += runs.differences(work) if code == 0 else []
        shutil.rmtree(work)
    if how == signal.SIGTERM and STOPPED not in codes:
        wrong.append(f"exit codes {codes}, never {STOPPED}")
    ended = (
        f"{number} {'run' if number == 1 else 'runs'} went on to the bits of one left alone"
        if not wrong
        else "runs differ"
    )
    return Row(f"{how.name} {name}", hits, ended, "; ".join(wrong))


def at_random(work: Path) -> Callable[[], bool]:
    """A random moment of a run: while it starts, trains, saves or evaluates."""
    end = time.monotonic() + random.uniform(1, 20)
    return lambda: time.monotonic() > end


def in_a_save(work: Path) -> Callable[[], bool]:
    """A moment at which a checkpoint is being written, not always the first one."""
    passed, before = random.randrange(4), [False]

    def now() -> bool:
        nonlocal passed
        begins = saving(work) and not before[0]
        before[0] = saving(work)
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
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", folder], capture_output=True
    )
    if done.returncode:
        raise PermissionError(f"{folder}: no file system can be mounted there: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def disk(runs: Runs) -> list[Row]:
    """A disk that is full, at different moments, and one that takes nothing at all; then the disk is given room."""
    rows = []
    for size in ("8k", "300k", "1500k"):
        with small_disk(runs.folder / "disk", size) as mounted:
            code, printed = runs.run(mounted / "run")
            said = [line for line in printed.splitlines() if "No space left" in line]
            subprocess.run(["mount", "-o", "remount,size=100m", mounted], check=True)
            wrong = [] if code == 1 and len(said) == 1 and "Traceback" not in printed else [f"exit code {code}", *said]
            code, printed = runs.run(mounted / "run")
            wrong += runs.differences(mounted / "run") if code == 0 else [f"exit code {code}: {printed[-300:]}"]
        happened = "one line names the file; with room again the same command ended with the same bits"
        rows.append(Row(f"disk full at {size}", 1, happened, "; ".join(wrong)))
    with small_disk(runs.folder / "disk", "1m", "ro") as mounted:
        code, printed = runs.run(mounted / "run")
        wrong = [] if code == 1 and "Read-only file system" in printed.splitlines()[-1] else [printed[-300:]]
        rows.append(Row("read-only workdir", 1, "one line names the folder", "; ".join(wrong)))
    return rows


def data(runs: Runs) -> Row:
    """The data root vanishes while the network trains, and comes back."""
    runs.whole()  # draws the data
    work, root, away = runs.folder / "vanished", runs.folder / "data", runs.folder / "away"
    process = runs.start(work, stderr=subprocess.PIPE)
    until(lambda: last(work) > 0, process)
    root.rename(away)
    code, printed = _ended(process)
    away.rename(root)
    said = [line for line in printed.splitlines() if line.startswith("launch.py:")]
    wrong = [] if code == 1 and len(said) == 1 and "Traceback" not in printed else [f"exit code {code}", printed[-300:]]
    code, printed = runs.run(work)
    wrong += runs.differences(work) if code == 0 else [f"exit code {code}: {printed[-300:]}"]
    happened = "one line names the picture; with the data back the same command ended with the same bits"
    return Row("data root vanishes", 1, happened, "; ".join(wrong))


def damage(runs: Runs, tries: int) -> Row:
    """A file of the last checkpoint of a stopped run is lost, cut or changed in one bit; then the run goes on."""
    stopped, wrong, used = runs.folder / "stopped", [], {"the last": 0, "the one before": 0}
    process = runs.start(stopped)
    until(lambda: last(stopped) > 0, process)
    first = last(stopped)
    until(lambda: last(stopped) > first, process)  # there is one before the last
    process.send_signal(signal.SIGTERM)
    assert _ended(process)[0] == STOPPED
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
        code, printed = runs.run(work)
        used["the one before" if "is damaged" in printed else "the last"] += 1
        wrong += runs.differences(work) if code == 0 else [f"{file.name}, exit code {code}: {printed[-300:]}"]
        shutil.rmtree(work)
    happened = f"named if it mattered; went on from {', '.join(f'{n} x {k}' for k, n in used.items())}; the same bits"
    return Row("a file of the last checkpoint damaged", tries, happened, "; ".join(wrong))


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
        code, printed = _ended(pair[1 - number % 2])
        seconds.append(time.monotonic() - begun)
        _ended(pair[number % 2])
        if code == 0 or "another one is gone" not in printed:
            wrong.append(f"exit code {code}: {printed[-300:]}")
        code, printed = runs.run(work)
        if code or last(work) != last(runs.whole()):
            wrong.append(f"alone: exit code {code}: {printed[-300:]}")
        shutil.rmtree(work)
    happened = f"the other said so and ended within {max(seconds):.0f} s; one process went on to the end"
    return Row("one of two processes killed", tries, happened, "; ".join(wrong))


def main() -> None:
    sections = ["kills", "saves", "stops", "disk", "data", "damage", "processes"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=sections, default=sections)
    parser.add_argument("--tries", type=int, default=30, help="kills at random moments; other faults have a third")
    arguments, rows = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        runs, third = Runs(Path(folder)), -(-arguments.tries // 3)
        made = {
            "kills": lambda: [kills(runs, arguments.tries, "at a random moment", at_random, signal.SIGKILL)],
            "saves": lambda: [kills(runs, third, "inside a save", in_a_save, signal.SIGKILL)],
            "stops": lambda: [kills(runs, third, "while training", after_a_save, signal.SIGTERM)],
            "disk": lambda: disk(runs),
            "data": lambda: [data(runs)],
            "damage": lambda: [damage(runs, third)],
            "processes": lambda: [processes(runs, -(-third // 2))],
        }
        print("| fault | tried | what happened | lost |\n|---|---|---|---|", flush=True)
        for section in dict.fromkeys(arguments.sections):
            for row in made[section]():
                rows.append(row)
                print(f"| {row.fault} | {row.tries} | {row.happened} | {row.lost or 'nothing'} |", flush=True)
    sys.exit(any(row.lost for row in rows))


if __name__ == "__main__":
    main()
