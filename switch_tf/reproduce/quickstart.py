"""The quickstart: a dense T5 and a FLOP-matched Switch model on the same batches of real text.

Both are pre-trained on `pydocs_span_corruption` over a mesh of eight devices, fine-tuned on
`pydocs_finetune`, and compared as in the paper (Sec. 3.2, 4.2): quality by step, and the steps that
the Switch model needs to reach the dense model's quality. Further pre-training seeds show how much
varies by chance alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from switch_tf.reproduce.experiment import Arm, Experiment
from switch_tf.reproduce.metrics import Metric, evaluated
from switch_tf.reproduce.verdict import ahead

DENSE, SWITCH = "dense T5", "Switch"
PRETRAINING = "pydocs_span_corruption"
NLP = Metric("validation NLP", evaluated(PRETRAINING, "nlp"), unit="nats")
_DENSE_FILES = ("models/t5_tiny.gin", "layouts/data.gin")
_SWITCH_FILES = ("models/switch_tiny.gin", "layouts/expert_data.gin")
_FINETUNE = "tables/quickstart_finetune.gin"


def _quickstart(
    name: str,
    pretrain: str,
    seeds: Mapping[str, Sequence[int]],
    switch: Mapping[str, Any],
    paper: float,
    **others,
) -> Experiment:
    """Makes the experiment in one size.

    Args:
      name: the experiment's name.
      pretrain: the gin file for pre-training.
      seeds: model -> its pre-training seeds.
      switch: bindings for the Switch model only.
      paper: the Switch model's NLP in the paper, at the same capacity factor.
      **others: further attributes of the experiment.
    """
    dense = Arm(DENSE, (*_DENSE_FILES, pretrain), seeds=seeds[DENSE])
    sparse = Arm(SWITCH, (*_SWITCH_FILES, pretrain), switch, seeds=seeds[SWITCH])
    return Experiment(
        name,
        reproduces="Table 1, at a small size",
        arms=(
            dense,
            sparse,
            Arm(DENSE, (*_DENSE_FILES, _FINETUNE), starts_from=dense),
            Arm(SWITCH, (*_SWITCH_FILES, _FINETUNE), switch, starts_from=sparse),
        ),
        metrics=(NLP,),
        paper={DENSE: {NLP.name: -1.731}, SWITCH: {NLP.name: paper}},
        claim="after as many steps of as many FLOPs, a Switch model is ahead of a dense one",
        refuted_by="the dense model ahead by more than seeds differ",
        verdict=ahead(SWITCH, DENSE, NLP),
        times_dtype=True,
        report="quickstart_report",
        **others,
    )


# A capacity of twice the even share: at 1.25, sixteen experts drop 6% of the training tokens.
LONG = _quickstart(
    "quickstart_long",
    "tables/quickstart_long.gin",
    seeds={DENSE: (0, 1), SWITCH: (0, 1)},
    switch={"NUM_EXPERTS": 16, "CAPACITY_FACTOR": 2.0},
    paper=-1.554,
    size="4,000 steps, sixteen experts, a second seed of each model: over an hour",
)
SHORT = _quickstart(
    "quickstart",
    "tables/quickstart.gin",
    seeds={DENSE: (0, 1), SWITCH: (0,)},
    switch={"NUM_EXPERTS": 8},
    paper=-1.553,
    variants={"long": LONG},
)
