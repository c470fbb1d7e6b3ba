"""The registry of `switch-tf bench`, one entry per benchmark."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Bench:
    """A benchmark: `bench_NAME` of the module `switch_tf.benches.NAME`.

    Attributes:
      what: what it times, shown in the list of benchmarks.
      description: shown by its --help.
      needs: settings that the gin files must give, besides batch size and lengths.
      run_file: an example of a file in gin/runs that gives them.
    """

    what: str
    description: str
    needs: Sequence[str] = ()
    run_file: str = "plan.gin"


BENCHES = {
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
}


def function(name: str) -> Callable[..., None]:
    """The function that runs and prints a benchmark; its import loads TensorFlow."""
    return getattr(importlib.import_module(f"switch_tf.benches.{name}"), f"bench_{name}")
