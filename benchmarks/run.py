"""All of it, unattended: `python benchmarks/run.py --save cpu`; `make bench` keeps nothing.

One pytest per number of threads, so that every library's pool has that size from the start; then
the tables, latency and scaling. `-k` chooses benchmarks as pytest does; `--only-tables` leaves out
latency and scaling. What is measured goes to runs/bench, with --save to benchmarks/results as well.
`python benchmarks/run.py --quick` is the headline table alone, in three minutes (quick.py), which
takes --save, too.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    if "--quick" in sys.argv[1:]:
        import quick

        return quick.main([a for a in sys.argv[1:] if a != "--quick"])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1", help="1, or 1,2")
    parser.add_argument("--seconds", default="0.5", help="timed per contender and problem")
    parser.add_argument("-k", dest="choose", help="only these benchmarks, in pytest's syntax")
    parser.add_argument("--save", metavar="NAME", help="keep as benchmarks/results/NAME*")
    parser.add_argument("--only-tables", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the headline table; see quick.py")
    args = parser.parse_args()
    out = HERE.parent / "runs" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    begin, files, failed = time.time(), [], 0
    save = ["--save", args.save] if args.save else []

    def run(script: list, threads: str = "1") -> int:
        # Must be set before a library starts: OpenMP and XLA size their pools by them.
        env = {**os.environ, "OMP_NUM_THREADS": threads, "NPROC": threads}
        print(f"\n[{time.time() - begin:.0f} s] {' '.join(map(str, script))}", flush=True)
        command = [sys.executable, *map(str, script)]
        return subprocess.run(command, env=env, cwd=HERE.parent).returncode

    for threads in args.threads.split(","):
        file = out / f"threads-{threads}.json"
        file.unlink(missing_ok=True)
        options = ["-k", args.choose] if args.choose else []
        code = run(
            [
                "-m",
                "pytest",
                HERE,
                "--benchmark-only",
                "--threads",
                threads,
                "-q",
                "-rs",
                "-p",
                "no:logging",
                f"--benchmark-max-time={args.seconds}",
                "--benchmark-sort=fullname",
                "--benchmark-columns=min,median,iqr,rounds",
                f"--benchmark-json={file}",
                *options,
            ],
            threads,
        )
        failed |= code
        files += [file] if file.exists() and file.stat().st_size else []
    if files:
        failed |= run([HERE / "table.py", *files, *save])
    if not args.only_tables and not args.choose:
        name = HERE / "results" / f"{args.save}-latency.json" if save else out / "latency.json"
        name.parent.mkdir(exist_ok=True)
        failed |= run([HERE / "latency.py", "--json", name])
        failed |= run([HERE / "scaling.py", *save])
    print(f"\n{time.time() - begin:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
