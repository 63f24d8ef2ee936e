"""`python -m benchmarks [--quick] [--check] [CASE...]`: measure, and print the table."""

import argparse
import sys

from benchmarks import agents, cases, emulator, lambda_cases
from benchmarks.measure import TOLERANCE, Row

ALL = {
    each.__name__: each
    for each in (
        cases.cold_start,
        cases.warm_invocation,
        cases.echo,
        cases.telemetry,
        cases.streams,
        cases.turn_over_dynamodb,
        cases.calls_and_bytes,
        cases.memory,
        agents.agent_cold_start,
        agents.model_calls,
        agents.frameworks,
        lambda_cases.lambda_cold_start,
        lambda_cases.lambda_invocation,
        lambda_cases.lambda_stream,
        emulator.zip_cold_start,
        emulator.image_cold_start,
    )
}
QUICK = cases.Effort(cold=5, warm=7, scale=0.25, ungated=False)
HEADER = Row("case", "floor", "ratio: median (min-max)", "target")


def main() -> int:
    """Run the cases and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a result")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"fail where a count differs, or a ratio is beyond {TOLERANCE} x its target"
        f" ({cases.ECHO_ALLOWED} x for the echo's)",
    )
    parser.add_argument("case", nargs="*", choices=[*ALL, []], help=", ".join(ALL))
    options = parser.parse_args()
    rows: list[Row] = []
    try:
        for name in options.case or ALL:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows += ALL[name](QUICK if options.quick else cases.Effort())
    finally:
        print_table(rows)
    beyond = [row for row in rows if row.excess is not None and row.excess > row.allowed]
    if not options.check or not beyond:
        return 0
    print("beyond what is allowed:", *(f"{row.case}: {row.figure}" for row in beyond), sep="\n  ", file=sys.stderr)
    return 1


def print_table(rows: list[Row]) -> None:
    """Print the rows as a Markdown table."""
    lines = [(row.case, row.floor, row.figure, row.target, mark(row)) for row in [HEADER, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    for line in (lines[0], rule, *lines[1:]):
        print("| " + " | ".join(map(str.ljust, line, widths)) + " |")


def mark(row: Row) -> str:
    """Return whether the row is within its target, where it has one."""
    if row.excess is None:
        return ""
    return "yes" if row.excess <= 1 else "NO"


if __name__ == "__main__":
    sys.exit(main())
