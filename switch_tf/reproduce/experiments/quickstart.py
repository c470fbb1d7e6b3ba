"""The quickstart: a dense T5 and FLOP-matched Switch models on the same batches of real text.

They are pre-trained on `pydocs_span_corruption` and compared as in the paper (Sec. 3.1, 3.2):
quality by step and by second, and when the Switch model has the dense model's quality. Texts are
short, so that each seed learns the same at the same step: otherwise the seeds of a model differ by
more than the models do. The short size has models of width 32, each on one core, and fine-tunes
them, too (Sec. 4.2); the long one has models of width 64 on meshes of up to eight devices, more
experts, and more seeds (Fig. 4).
"""

import itertools
from typing import Any

from switch_tf.reproduce.experiment import Arm, Experiment
from switch_tf.reproduce.metrics import Metric, evaluated
from switch_tf.reproduce.verdict import Claim, ahead, ahead_by, every

DENSE, SWITCH = "dense T5", "Switch"
PRETRAINING = "pydocs_span_corruption"
NLP = Metric("validation NLP", evaluated(PRETRAINING, "nlp"), unit="nats")
_T5_MICRO, _SWITCH_MICRO = "models/t5_micro.gin", "models/switch_micro.gin"
_PRETRAIN, _FINETUNE = "tables/quickstart.gin", "tables/quickstart_finetune.gin"
_LONG = "tables/quickstart_long.gin"
# The paper's figures for T5-Base and Switch-Base (Table 1), at the same capacity factor.
_PAPER = {DENSE: {NLP.name: -1.731}, SWITCH: {NLP.name: -1.553}}

_dense = Arm(DENSE, (_T5_MICRO, _PRETRAIN), seeds=(0, 1), minutes=6.5)
_switch = Arm(SWITCH, (_SWITCH_MICRO, _PRETRAIN), seeds=(0,), minutes=7.0)
_SEEDS = (0, 1, 2)
_T5_TINY = ("models/t5_tiny.gin", "layouts/data.gin", _LONG)
_SWITCH_TINY = ("models/switch_tiny.gin", "layouts/expert_data.gin", _LONG)
_EXPERTS = {4: 8.0, 16: 9.0, 64: 10.0}


def _of(num_experts: int) -> str:
    return f"{SWITCH}, {num_experts} experts"


def _experts(num_experts: int) -> dict[str, Any]:
    # At most one device an expert.
    return {"NUM_EXPERTS": num_experts, "MESH_SHAPE": f"batch:{min(num_experts, 8)}"}


LONG = Experiment(
    "quickstart_long",
    reproduces="Figures 1 and 4, at a small size",
    arms=(
        Arm(DENSE, _T5_TINY, seeds=_SEEDS, minutes=7.0),
        *(
            Arm(_of(n), _SWITCH_TINY, _experts(n), _SEEDS, minutes)
            for n, minutes in _EXPERTS.items()
        ),
    ),
    metrics=(NLP,),
    paper={},
    claims=(
        Claim(
            "each Switch model is ahead of the dense one, and of those with fewer experts, after "
            "the same number of steps, at about the same FLOPs per token",
            "a model being ahead of one with more experts, by more than seeds allow",
            every(
                [
                    *(ahead(_of(n), DENSE, NLP) for n in _EXPERTS),
                    *(
                        ahead(_of(more), _of(few), NLP)
                        for few, more in itertools.pairwise(_EXPERTS)
                    ),
                ]
            ),
        ),
    ),
    report="quickstart_report",
    size="more steps; 4, 16 and 64 experts; three seeds of each model: one to two hours",
)
SHORT = Experiment(
    "quickstart",
    reproduces="Table 1, at a small size",
    arms=(
        _dense,
        _switch,
        Arm(DENSE, (_T5_MICRO, _FINETUNE), starts_from=_dense, minutes=3.0),
        Arm(SWITCH, (_SWITCH_MICRO, _FINETUNE), starts_from=_switch, minutes=3.0),
    ),
    metrics=(NLP,),
    paper=_PAPER,
    claims=(
        Claim(
            "a Switch model is ahead of a dense one after the same number of steps, at the same "
            "FLOPs per token",
            "the dense model being ahead by three times the distance between its seeds",
            ahead_by(SWITCH, DENSE, NLP, times=3),
        ),
    ),
    has_core_each=True,
    report="quickstart_report",
    variants={"long": LONG},
)
