"""The registry of `switch-tf bench`, one entry per benchmark."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Bench:
    """A benchmark: `bench_NAME` of the module `switch_tf.benches.NAME`.

    Attributes:
      what: what it times, shown in the list of benchmarks.
      description: shown by its --help.
      needs: settings that the gin files must give, besides batch size and lengths.
      run_file: an example of a file in gin/runs that gives them.
      flags: flags that its function takes as arguments -> their arguments of argparse.
    """

    what: str
    description: str
    needs: Sequence[str] = ()
    run_file: str = "plan.gin"
    flags: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)


_AGAINST = {
    "choices": ("hf",),
    "help": "time another implementation in turn: hf is Hugging Face transformers; needs "
    "requirements-bench.txt in .venv-bench",
}

BENCHES = {
    "collectives": Bench(
        "what devices take to exchange data, by kind and size",
        "Takes the gin files of a plan: times each collective along each dimension of the mesh, at "
        "several sizes.",
    ),
    "decode": Bench(
        "greedy decoding of a batch",
        "Takes the gin files of a plan: times greedy decoding of a batch of random inputs with a "
        "model of random weights, to the length of the targets.",
        flags={"against": _AGAINST},
    ),
    "input": Bench(
        "the rate of a run's input on one core, compared with what its model consumes",
        "Takes the gin files of a training run, without running it: times its input on one core, "
        "then its steps on one batch.",
        needs=("TaskData.mixture_or_task_name",),
        run_file="pretrain.gin",
    ),
    "layer": Bench(
        "a Switch layer with even, skewed and worst load, and at several capacities",
        "Takes the gin files of a plan: times the model's first Switch layer, forward and "
        "backward, with routers of even, skewed and worst load, and with its own at several "
        "capacity factors.",
    ),
    "precision": Bench(
        "what the float32 parts of a bfloat16 training step cost",
        "Takes the gin files of a plan: times a training step of a bfloat16 model, with and "
        "without attention's logits, the softmax's logits or the router in bfloat16, too.",
    ),
    "train": Bench(
        "a training step, and its share of what this machine can do",
        "Takes the gin files of a plan: times a training step in turn with a large matrix product "
        "and a large sum in place, and prints which share of the machine's rates it reaches.",
        flags={
            "breakdown": {
                "action": "store_true",
                "help": "profile some more steps, and print what each part of them takes",
            },
            "against": _AGAINST,
        },
    ),
}


def function(name: str) -> Callable[..., None]:
    """The function that runs and prints a benchmark; its import loads TensorFlow."""
    return getattr(importlib.import_module(f"switch_tf.benches.{name}"), f"bench_{name}")
