"""Fine-tuning (Tables 4 and 5; Figure 13)."""

from collections.abc import Sequence

from switch_tf.reproduce.experiment import Arm, Experiment
from switch_tf.reproduce.experiments.mini import (
    ACCURACY,
    FOLDER,
    LARGE,
    NLP,
    ROUGE,
    SWITCH,
    T5,
    finetuned,
    of_experts,
)
from switch_tf.reproduce.metrics import Metric
from switch_tf.reproduce.verdict import Claim, ahead


def _switch(model: str, rate: float, of_experts: float | None = None) -> Arm:
    return finetuned(SWITCH, model, {"DROPOUT_RATE": rate, "EXPERT_DROPOUT_RATE": of_experts})


DENSE = finetuned(T5, "T5, dropout 0.1", {"DROPOUT_RATE": 0.1})
DROPOUT = {rate: _switch(f"Switch, dropout {rate}", rate) for rate in (0.1, 0.2, 0.3)}
EXPERT_DROPOUT = _switch("Switch, dropout 0.1, in experts 0.4", 0.1, 0.4)


def dropout_claims(
    arms: Sequence[Arm], metric: Metric, paper: Sequence[float], of: str = ""
) -> tuple[Claim, Claim]:
    """The claims of Table 4.

    Args:
      arms: a dense one, Switch with dropout 0.1, 0.2 and 0.3, and that with 0.4 in experts.
      metric: by which they are judged.
      paper: the paper's figures of these.
      of: what the figures are of, such as ` (GLUE)`.
    """
    _, least, _, most, in_experts = (arm.model for arm in arms)
    return (
        Claim(
            "dropout 0.4 inside the experts and 0.1 elsewhere is ahead of 0.1 everywhere",
            "0.1 everywhere ahead",
            ahead(in_experts, least, metric),
            paper=f"{paper[4]} and {paper[1]}{of}",
        ),
        Claim(
            "dropout 0.3 everywhere is behind 0.1 everywhere",
            "0.3 everywhere ahead",
            ahead(least, most, metric),
            paper=f"{paper[3]} and {paper[1]}{of}",
        ),
    )


def _paper4(glue: float, rouge: float) -> dict[str, float]:
    return {ACCURACY.name: glue, ROUGE.name: rouge}


_ARMS4 = (DENSE, *DROPOUT.values(), EXPERT_DROPOUT)
TABLE4 = Experiment(
    name="table4",
    reproduces="Table 4: regularisation in fine-tuning (the paper's figures: GLUE; CNNDM)",
    arms=_ARMS4,
    metrics=(ACCURACY, ROUGE),
    paper={
        DENSE.model: _paper4(82.9, 19.6),
        DROPOUT[0.1].model: _paper4(84.7, 19.1),
        DROPOUT[0.2].model: _paper4(84.4, 19.2),
        DROPOUT[0.3].model: _paper4(83.9, 19.6),
        EXPERT_DROPOUT.model: _paper4(85.2, 19.6),
    },
    claims=dropout_claims(_ARMS4, ACCURACY, (82.9, 84.7, 84.4, 83.9, 85.2), " (GLUE)"),
    folder=FOLDER,
)
# Without dropout: at this size, underfitting is the larger danger.
_PRETRAINED = (T5, SWITCH, LARGE)
_TUNED = tuple(finetuned(arm) for arm in _PRETRAINED)
TABLE5 = Experiment(
    name="table5",
    reproduces="Table 5: fine-tuned models (the paper's figures: GLUE; XSum)",
    arms=(*_PRETRAINED, *_TUNED),
    metrics=(NLP, ACCURACY, ROUGE),
    paper={
        T5.model: {ACCURACY.name: 84.3, ROUGE.name: 18.7},
        SWITCH.model: {ACCURACY.name: 86.7, ROUGE.name: 20.3},
        LARGE.model: {ACCURACY.name: 87.8, ROUGE.name: 20.9},
    },
    claims=(
        Claim(
            "fine-tuned, Switch is ahead of the dense model of the same FLOPs on understanding",
            "the dense model ahead",
            ahead(SWITCH.model, T5.model, ACCURACY),
            paper="86.7 and 84.3 (GLUE)",
        ),
        Claim(
            "and on summaries",
            "the dense model ahead",
            ahead(SWITCH.model, T5.model, ROUGE),
            paper="20.3 and 18.7 (XSum)",
        ),
    ),
    folder=FOLDER,
)
_UPSTREAM = (T5, SWITCH, LARGE, of_experts(2), of_experts(32))
FIGURE13 = Experiment(
    name="figure13",
    reproduces="Figure 13: downstream against upstream quality",
    arms=(*_UPSTREAM, *_TUNED, *(finetuned(arm) for arm in _UPSTREAM[3:])),
    metrics=(NLP, ACCURACY, ROUGE),
    paper={},
    claims=(
        Claim(
            "a model that is ahead in pre-training is ahead after fine-tuning: Switch of the dense "
            "model",
            "the dense model ahead",
            ahead(SWITCH.model, T5.model, ACCURACY),
        ),
        Claim(
            "so is the larger dense model of the dense one",
            "the smaller ahead",
            ahead(LARGE.model, T5.model, ACCURACY),
        ),
    ),
    folder=FOLDER,
    picture="downstream",
)
EXPERIMENTS = (TABLE4, TABLE5, FIGURE13)
