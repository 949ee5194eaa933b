"""`python -m bench NAME…`: run benchmarks and print their figures. Exit code 1 where a check doesn't hold."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from bench import (
    aa,
    compare,
    cpu,
    decisions,
    isolation,
    latency,
    memory,
    outage,
    page,
    report,
    throughput,
    tracing,
)
from bench.options import Options
from bench.peers import NotMeasured
from bench.procs import Failed
from rich.console import Console

BENCHMARKS: Final[dict[str, Callable[[Options], report.Report]]] = {
    "proxy-cpu": cpu.run,
    "proxy-latency": latency.run,
    "proxy-isolation": isolation.run,
    "proxy-memory": memory.run,
    "proxy-aa": aa.run,
    "pairs-throughput": throughput.run,
    "pairs-outage": outage.run,
    "tracing": tracing.run,
    "compare": compare.run,
    "decisions": decisions.run,
    "page": page.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is named, all without a name."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - BENCHMARKS.keys():
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    # A log has no width; a table wants one.
    console = Console(width=None if sys.stdout.isatty() else 140)
    options = Options(chosen.rounds, chosen.seconds, chosen.quick, tuple(filter(None, chosen.only.split(","))), console)
    reports = []
    for name in chosen.names or BENCHMARKS:
        try:
            made = BENCHMARKS[name](options)
        except (NotMeasured, Failed) as error:
            made = report.Report(name, name, (), (), checks=[report.Check("runs", False, str(error))])
        made.show(console)
        reports.append(made)
    console.print(report.machine(), style="dim", highlight=False)
    if chosen.json:
        report.write_json(chosen.json, reports)
    if chosen.markdown:
        report.write_markdown(chosen.markdown, reports)
    return 0 if all(made.good for made in reports) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Compare shadowproxy with its peers in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, help="each side is measured so often, in turn")
    parser.add_argument("--seconds", type=float, help="for each side in each round")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to see that it works")
    parser.add_argument("--only", default="", metavar="SIDE,…", help="measure these sides only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables between their marks in FILE")
    return parser


def _stop(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    # However it is told to end, the processes that it started end with it.
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
