"""What the paper's tables and figures share at mini scale: models, recipe, seeds and metrics.

Models are those of the long quickstart, trained in its way (`tables/mini.gin`): one device a run,
two runs at a time on two cores. Three seeds each, so that a difference has an interval.
"""

from collections.abc import Mapping
from typing import Any

from switch_tf.reproduce.experiment import Arm
from switch_tf.reproduce.metrics import (
    Metric,
    best,
    evaluated,
    examples_per_second,
    fact,
    minutes_to,
    steps_to,
)

FOLDER = "mini"
SEEDS = (0, 1, 2)
PRETRAINING = "pydocs_span_corruption"
PRETRAIN, FINETUNE = "tables/mini.gin", "tables/quickstart_finetune.gin"
DISTILL = "tables/mini_distill.gin"
_T5, _SWITCH = "models/t5_tiny.gin", "models/switch_tiny.gin"
# In place of the paper's -1.50: about the last NLP of the dense model, so that some models do not
# reach it.
THRESHOLD = -2.75

NLP = Metric("NLP", evaluated(PRETRAINING, "nlp"), unit="nats")
# About half-way through the recipe, as the paper's 250,000 steps are to its 500,000.
EARLY = Metric("NLP after 500 steps", evaluated(PRETRAINING, "nlp", step=500), unit="nats")
PARAMETERS = Metric("million parameters", fact("parameters", 1e-6), "million")
FLOPS = Metric("MFLOPs a sequence", fact("flops_per_sequence", 1e-6), "MFLOPs", digits=1)
EXAMPLES = Metric("examples/s", examples_per_second, unit="examples/s", digits=0)
STEPS = Metric(f"steps to NLP {THRESHOLD}", steps_to(PRETRAINING, THRESHOLD), "steps", 0, sign=-1)
MINUTES = Metric(f"minutes to NLP {THRESHOLD}", minutes_to(PRETRAINING, THRESHOLD), "min", 1, -1)
ACCURACY = Metric(
    "accuracy, mean of 3 tasks",
    best(dict.fromkeys(("pydocs_copa", "pydocs_rte", "pydocs_library"), "accuracy")),
    unit="points",
    digits=1,
)
ROUGE = Metric("rouge2", best({"pydocs_summary": "rouge2"}), unit="points", digits=1)


def dense(
    model: str, bindings: Mapping[str, Any] | None = None, minutes: float = 8.0, seeds=SEEDS
) -> Arm:
    """An arm that pre-trains a dense T5.

    Args:
      model, bindings, minutes, seeds: see `Arm`.
    """
    return Arm(model, (_T5, PRETRAIN), bindings or {}, seeds, minutes)


def switch(
    model: str, bindings: Mapping[str, Any] | None = None, minutes: float = 9.0, seeds=SEEDS
) -> Arm:
    """An arm that pre-trains a Switch model, of 8 experts at capacity factor 1.25 by default.

    Args:
      model, bindings, minutes, seeds: see `Arm`.
    """
    return Arm(model, (_SWITCH, PRETRAIN), bindings or {}, seeds, minutes)


def finetuned(
    arm: Arm, model: str = "", bindings: Mapping[str, Any] | None = None, teacher: Arm | None = None
) -> Arm:
    """An arm that fine-tunes each seed of another on four tasks of Python's documentation.

    Args:
      arm: the one whose models are fine-tuned.
      model: see `Arm`; that of the other if "".
      bindings: see `Arm`.
      teacher: a fine-tuned arm that is distilled.
    """
    given = {**arm.bindings, **(bindings or {})}
    if teacher is not None:
        given |= {
            "train.distillation": "@Distillation",
            "Distillation.teacher_path": "%TEACHER_PATH",
        }
    return Arm(
        model or arm.model,
        (arm.gin_files[0], FINETUNE),
        given,
        arm.seeds,
        minutes=3.5,
        starts_from=arm,
        teacher=teacher,
    )


T5 = dense("T5, dense")
# As T5-Large to T5-Base: twice the layers, and wider; 3.5 times the FLOPs.
LARGE = dense(
    "T5, 3.5 times the FLOPs",
    {
        "TransformerEncoderDecoder.num_layers": 4,
        "TransformerEncoderDecoder.d_model": 96,
        "TransformerEncoderDecoder.d_ff": 384,
        "TransformerEncoderDecoder.num_heads": 6,
    },
    minutes=25.0,
)
SWITCH = switch("Switch, 8 experts")


def of_experts(number: int) -> Arm:
    """The Switch model with so many experts."""
    if number == 8:
        return SWITCH
    return switch(f"Switch, {number} experts", {"NUM_EXPERTS": number}, 8.0 + number / 10)
