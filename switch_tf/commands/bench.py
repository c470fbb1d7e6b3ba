"""`switch-tf bench WHAT`: times one part of a run on this machine."""

from collections.abc import Sequence

from switch_tf.benches import registry
from switch_tf.benches.registry import BENCHES
from switch_tf.commands.flags import Parser
from switch_tf.commands.launch import DATA, check
from switch_tf.metrics.tables import table


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark named by the first argument."""
    name = _parser().parse_args(argv[:1]).bench
    bench = BENCHES[name]
    launch = check(
        f"bench {name}",
        bench.description,
        argv[1:],
        needs=(*DATA, *bench.needs),
        run_file=bench.run_file,
        flags=bench.flags,
    )
    launch.start()
    registry.function(name)(**{flag: getattr(launch.args, flag) for flag in bench.flags})


def _parser() -> Parser:
    listing = "\n  ".join(table((name, bench.what) for name, bench in BENCHES.items()))
    parser = Parser(
        prog="switch-tf bench",
        usage="switch-tf bench WHAT [flags]",
        description=f"Times a part of a run on this machine.\n\nbenchmarks:\n  {listing}",
        epilog="switch-tf bench WHAT --help shows the flags of a benchmark.",
    )
    parser.add_argument("bench", metavar="WHAT", choices=BENCHES, help="one of the above")
    return parser
