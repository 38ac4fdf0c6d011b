"""Attack edgeq with generated inputs: nothing may end in an internal error, take long, fill memory, or write elsewhere.

    python benchmarks/attack.py [--share 1.0] [--seed 0] [--only KIND]

Prints a row per kind. Each runs in a process of its own, whose memory is the figure; a sample of whole bundles goes
through the command line as well. Needs the repository: the inputs are those of tests/support/hostile_inputs.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from from_tests import support

COUNTS = {
    "manifests": 12_000, "bundles": 500, "archives": 2_000, "goldens": 5_000, "settings": 8_000, "tokenizers": 2_500,
    "templates": 2_500, "safetensors": 20_000, "gguf": 24_000, "onnx": 12_000, "calibration": 8_000, "labels": 8_000,
}  # fmt: skip
COMMAND_LINES = 60
MOST_SECONDS, MOST_MEGABYTES = 2.0, 500.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COUNTS, help="one kind")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments.worker[0], int(arguments.worker[1]), arguments.seed)))
        return 0
    counts = {name: max(1, int(count * arguments.share)) for name, count in COUNTS.items()}
    names = [arguments.only] if arguments.only else list(counts)
    from edgeq.runtime.host import cpu_name

    machine = f"{cpu_name()}, {platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}; seed {arguments.seed}\n")
    print("| kind | inputs | taken | exit 70 | slowest, s | of CPU, s | most memory, MB | written outside |")
    print("|---|---|---|---|---|---|---|---|")
    rows = [row(name, run_worker(name, counts[name], arguments.seed)) for name in names]
    if not arguments.only:
        rows.append(
            row("command line", command_lines(max(1, int(COMMAND_LINES * arguments.share)), arguments.seed))
        )
    print(f"\n{sum(found['inputs'] for found in rows):,} inputs")
    return int(any(is_bad(found) for found in rows))


def work(name: str, count: int, seed: int) -> dict[str, Any]:
    hostile = support("hostile_inputs")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "kinds"
        kind = hostile.Kinds(place).named(name)
        tempfile.tempdir = str(place / "work")
        found = hostile.attack(kind, count, seed, place)
        tempfile.tempdir = None
        left = [path for path in (place / "work").iterdir() if path.name.startswith("edgeq-")]
        found.outside += [f"left behind: {path.name}" for path in left]
        document: dict[str, Any] = found.to_json()
        return document


def run_worker(name: str, count: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--seed", str(seed), "--worker", name, str(count)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "RUST_BACKTRACE": "0"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode != 0:
        return {"inputs": count, "internal": 1, "slowest": 0.0, "slowest_cpu": 0.0, "megabytes": 0.0, "outside": [],
                "outcomes": {}, "examples": [f"ended with {ended.returncode}: {ended.stderr[-2000:]}"]}  # fmt: skip
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def command_lines(count: int, seed: int) -> dict[str, Any]:
    """Bundles changed and signed again, through processes as users start them."""
    import resource
    import time

    hostile = support("hostile_inputs")
    found = hostile.Found()
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        kinds = hostile.Kinds(Path(folder) / "kinds")
        make = kinds.named("bundles").make
        bundle = kinds.work / "signed"
        home = Path(folder) / "home"
        home.mkdir()
        environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
        for _ in range(count):
            make(generator)
            verb = generator.choice(
                (["inspect"], ["run", "--text", "the cat", "--force"], ["validate", "--force"])
            )
            before = listing(Path(folder))
            began, used = time.perf_counter(), children_seconds(resource)
            ended = subprocess.run(
                [sys.executable, "-m", "edgeq", verb[0], str(bundle), *verb[1:]],
                capture_output=True, text=True, env=environment, cwd=home, check=False,
            )  # fmt: skip
            found.slowest = max(found.slowest, time.perf_counter() - began)
            found.slowest_cpu = max(found.slowest_cpu, children_seconds(resource) - used)
            found.inputs += 1
            found.outcomes["taken" if ended.returncode == 0 else str(ended.returncode)] += 1
            if ended.returncode not in (0, 1, 2, 3, 4):
                found.internal += 1
                found.examples.append(ended.stderr[-300:])
            found.outside += sorted(listing(Path(folder)) - before)
    found.megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    document: dict[str, Any] = found.to_json()
    return document


def children_seconds(resource: Any) -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(usage.ru_utime + usage.ru_stime)


def listing(folder: Path) -> set[str]:
    return {f"{path} {path.stat().st_size if path.is_file() else ''}" for path in folder.rglob("*")}


def is_bad(found: dict[str, Any]) -> bool:
    """By processor time: on a machine that is busy a second takes longer."""
    slow = found["slowest_cpu"] > MOST_SECONDS
    return bool(found["internal"] or slow or found["megabytes"] > MOST_MEGABYTES or found["outside"])


def row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    outside = "; ".join(found["outside"][:3]) or "nothing"
    taken = found["outcomes"].get("taken", 0)
    print(
        f"| {name} | {found['inputs']:,} | {taken:,} | {found['internal']} | {found['slowest']:.2f} | "
        f"{found['slowest_cpu']:.2f} | {found['megabytes']:.0f} | {outside} |",
        flush=True,
    )
    for example in found["examples"][:3]:
        print(f"  {example}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
