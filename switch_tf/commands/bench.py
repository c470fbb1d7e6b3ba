"""`switch-tf bench WHAT`: times a part of a run on this machine."""

from collections.abc import Sequence

from switch_tf.commands.flags import Parser
from switch_tf.commands.launch import check

BENCHES = {
    "input": "what one core delivers of a run's input against what its model consumes",
    "layer": "a Switch layer under named skews of its load, and at several capacities",
    "precision": "what the float32 parts of a bfloat16 training step cost",
}


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark that the first argument names."""
    bench = _parser().parse_args(argv[:1]).bench
    {"input": _input, "layer": _layer, "precision": _precision}[bench](argv[1:])


def _parser() -> Parser:
    listing = "\n".join(f"  {name:<10} {text}" for name, text in BENCHES.items())
    parser = Parser(
        prog="switch-tf bench",
        usage="switch-tf bench WHAT [flags]",
        description="Times a part of a run on this machine.\n\nbenchmarks:\n" + listing,
        epilog="switch-tf bench WHAT --help shows the flags of a benchmark.",
    )
    parser.add_argument("bench", metavar="WHAT", choices=BENCHES, help="one of the above")
    return parser


def _input(argv: Sequence[str]) -> None:
    launch = check(
        "bench input",
        "Takes the gin of a training run, which it does not make: times the run's input on one "
        "core, then its steps on one batch.",
        argv,
        unused=("MODEL_DIR", "INITIAL_CHECKPOINT_PATH"),
    )
    launch.start()
    from switch_tf.benches.input import bench_input

    bench_input()


def _layer(argv: Sequence[str]) -> None:
    launch = check(
        "bench layer",
        "Takes the gin of a plan: times the model's first Switch layer, forward and backward, by "
        "routers of even, skewed and worst load, and by its own at several capacity factors.",
        argv,
    )
    launch.start()
    from switch_tf.benches.layer import bench_layer

    bench_layer()


def _precision(argv: Sequence[str]) -> None:
    launch = check(
        "bench precision",
        "Takes the gin of a plan: times a training step in bfloat16, and with attention's logits, "
        "the softmax's logits or the router in bfloat16, too.",
        argv,
    )
    launch.start()
    from switch_tf.benches.precision import bench_precision

    bench_precision()
