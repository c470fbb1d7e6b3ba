"""Quality and speed of dense, MoE and Switch models (Table 1; Figures 1, 4, 5, 6, 12)."""

from switch_tf.reproduce.experiment import Experiment
from switch_tf.reproduce.experiments.mini import (
    EARLY,
    EXAMPLES,
    FLOPS,
    FOLDER,
    LARGE,
    MINUTES,
    NLP,
    PARAMETERS,
    STEPS,
    SWITCH,
    T5,
    of_experts,
    switch,
)
from switch_tf.reproduce.verdict import Claim, ahead, every

_TOP2 = {"SwitchLayer.router": "@Top2Router"}


def _moe(factor: float):
    return switch(f"MoE top-2, capacity {factor}", _TOP2 | {"CAPACITY_FACTOR": factor}, 13.0)


def _switch(factor: float):
    return switch(f"Switch, capacity {factor}", {"CAPACITY_FACTOR": factor})


MOE = {factor: _moe(factor) for factor in (2.0, 1.25, 1.0)}
CAPACITY = {2.0: _switch(2.0), 1.25: SWITCH, 1.0: _switch(1.0)}
# Wider, to match the speed of MoE at capacity 1.0.
PLUS = switch(
    "Switch, wider (+)",
    {
        "CAPACITY_FACTOR": 1.0,
        "TransformerEncoderDecoder.d_model": 80,
        "TransformerEncoderDecoder.num_heads": 5,
    },
    13.0,
)
_HOURS = MINUTES.name


def _paper(nlp: float, examples: float, hours: float | None = None) -> dict[str, float]:
    found = {NLP.name: nlp, EXAMPLES.name: examples}
    return found if hours is None else found | {_HOURS: 60 * hours}


TABLE1 = Experiment(
    name="table1",
    reproduces="Table 1: Switch, MoE and dense models at equal steps and equal time",
    arms=(
        T5,
        CAPACITY[1.25],
        CAPACITY[1.0],
        MOE[1.0],
        CAPACITY[2.0],
        MOE[1.25],
        MOE[2.0],
        PLUS,
        LARGE,
    ),
    metrics=(NLP, MINUTES, EXAMPLES),
    paper={
        T5.model: _paper(-1.731, 1600),
        LARGE.model: _paper(-1.550, 470, 131.1),
        MOE[2.0].model: _paper(-1.547, 840, 68.7),
        CAPACITY[2.0].model: _paper(-1.554, 860, 72.8),
        MOE[1.25].model: _paper(-1.559, 790, 80.7),
        CAPACITY[1.25].model: _paper(-1.553, 910, 65.0),
        MOE[1.0].model: _paper(-1.572, 860, 80.1),
        CAPACITY[1.0].model: _paper(-1.561, 1000, 62.8),
        PLUS.model: _paper(-1.534, 780, 67.6),
    },
    claims=(
        Claim(
            "Switch is ahead of the dense model of the same FLOPs after the same steps",
            "the dense model ahead",
            ahead(SWITCH.model, T5.model, NLP),
            paper="-1.553 and -1.731",
        ),
        Claim(
            "Switch reaches the threshold in less time than the dense model",
            "the dense model there first",
            ahead(SWITCH.model, T5.model, MINUTES),
            paper="65.0 hours; T5-Base not at all",
        ),
        Claim(
            "at capacity factor 1.0 Switch is ahead of MoE with two experts a token",
            "MoE ahead",
            ahead(CAPACITY[1.0].model, MOE[1.0].model, NLP),
            paper="-1.561 and -1.572",
        ),
        Claim(
            "at each capacity factor Switch computes more examples a second than MoE",
            "MoE faster at one of them",
            every([ahead(CAPACITY[f].model, MOE[f].model, EXAMPLES) for f in MOE]),
            paper="860 and 840, 910 and 790, 1000 and 860",
        ),
        Claim(
            "Switch reaches the threshold in less time at capacity factor 1.0 than at 2.0",
            "2.0 there first",
            ahead(CAPACITY[1.0].model, CAPACITY[2.0].model, MINUTES),
            paper="62.8 and 72.8 hours",
        ),
        Claim(
            "Switch+, as fast as MoE, is ahead of MoE at every capacity factor",
            "MoE ahead at one of them",
            every([ahead(PLUS.model, MOE[f].model, NLP) for f in MOE]),
            paper="-1.534; -1.547, -1.559, -1.572",
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
_NUMBERS = (2, 4, 8, 16, 32, 64)
EXPERTS = {number: of_experts(number) for number in _NUMBERS}
_SCALED = (T5, *(EXPERTS[n] for n in (8, 2, 32, 4, 16, 64)))


def _more(numbers, metric):
    """Each number of experts is ahead of the one before it, the first of the dense model."""
    models = [T5.model, *(EXPERTS[n].model for n in numbers)]
    return every([ahead(b, a, metric) for a, b in zip(models, models[1:], strict=False)])


FIGURE1 = Experiment(
    name="figure1",
    reproduces="Figures 1 and 4, left: loss against parameters, 1 to 64 experts",
    arms=_SCALED,
    metrics=(NLP,),
    paper={},
    claims=(
        Claim(
            "each doubling of the experts improves NLP after the same steps, at the same FLOPs",
            "a model ahead of one with twice its experts",
            _more(_NUMBERS, NLP),
        ),
        Claim(
            "64 experts are ahead of the dense model",
            "the dense model ahead",
            ahead(EXPERTS[64].model, T5.model, NLP),
        ),
    ),
    folder=FOLDER,
    picture="sizes",
    experts={T5.model: 1, **{arm.model: number for number, arm in EXPERTS.items()}},
)
FIGURE4 = Experiment(
    name="figure4",
    reproduces="Figure 4, right: NLP by step, 1 to 64 experts",
    arms=_SCALED,
    metrics=(NLP, STEPS),
    paper={T5.model: {STEPS.name: 450_000}, EXPERTS[64].model: {STEPS.name: 60_000}},
    claims=(
        Claim(
            "64 experts reach the dense model's NLP in fewer steps (7.5 times fewer in the paper)",
            "the dense model there first",
            ahead(EXPERTS[64].model, T5.model, STEPS),
            paper="60,000 and 450,000 steps",
        ),
        Claim(
            "8 experts reach the dense model's NLP in fewer steps",
            "the dense model there first",
            ahead(EXPERTS[8].model, T5.model, STEPS),
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
FIGURE5 = Experiment(
    name="figure5",
    reproduces="Figure 5: NLP by time, 1 to 64 experts",
    arms=_SCALED,
    metrics=(NLP, MINUTES, EXAMPLES),
    paper={},
    claims=(
        Claim(
            "64 experts reach the dense model's NLP in less time (a seventh in the paper)",
            "the dense model there first",
            ahead(EXPERTS[64].model, T5.model, MINUTES),
            paper="a seventh of the time",
        ),
        Claim(
            "8 experts reach the dense model's NLP in less time",
            "the dense model there first",
            ahead(EXPERTS[8].model, T5.model, MINUTES),
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
FIGURE6 = Experiment(
    name="figure6",
    reproduces="Figure 6: Switch against a dense model with 3.5 times its FLOPs",
    arms=(LARGE, SWITCH, T5),
    metrics=(NLP, MINUTES, EXAMPLES),
    paper={LARGE.model: {_HOURS: 60 * 131.1}, SWITCH.model: {_HOURS: 60 * 65.0}},
    claims=(
        Claim(
            "Switch reaches the threshold in less time than the larger dense model (2.5 times in "
            "the paper)",
            "the larger dense model there first",
            ahead(SWITCH.model, LARGE.model, MINUTES),
            paper="65.0 and 131.1 hours",
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
FIGURE12 = Experiment(
    name="figure12",
    reproduces="Figure 12: few experts",
    arms=(T5, *(EXPERTS[n] for n in (8, 4, 2))),
    metrics=(NLP, EXAMPLES),
    paper={},
    claims=tuple(
        Claim(
            f"a Switch model of {n} experts is ahead of the dense model",
            "the dense model ahead",
            ahead(EXPERTS[n].model, T5.model, NLP),
        )
        for n in (2, 4, 8)
    ),
    folder=FOLDER,
    picture="curves",
)
SWITCH_LARGE = switch("Switch, 8 experts, 3.5 times the FLOPs", LARGE.bindings, 29.0)
_TABLE9 = (T5, LARGE, SWITCH, SWITCH_LARGE, EXPERTS[64])


def _sizes(parameters: float, flops: float, early: float, nlp: float) -> dict[str, float]:
    return {PARAMETERS.name: parameters, FLOPS.name: flops, EARLY.name: early, NLP.name: nlp}


TABLE9 = Experiment(
    name="table9",
    reproduces="Table 9: sizes, FLOPs and quality (the paper's: T5-Base, T5-Large, Switch-Base, "
    "Switch-Large and, of 64 experts, Switch-C; NLP after 250,000 and 500,000 steps)",
    arms=_TABLE9,
    metrics=(PARAMETERS, FLOPS, EARLY, NLP),
    paper={
        T5.model: _sizes(200, 124e3, -1.599, -1.556),
        LARGE.model: _sizes(700, 425e3, -1.402, -1.350),
        SWITCH.model: _sizes(7_000, 124e3, -1.370, -1.306),
        SWITCH_LARGE.model: _sizes(26_000, 425e3, -1.248, -1.177),
        EXPERTS[64].model: _sizes(1_571_000, 890e3, -1.096, -1.043),
    },
    claims=(
        Claim(
            "Switch-Large is ahead of T5-Large, at the same FLOPs",
            "T5-Large ahead",
            ahead(SWITCH_LARGE.model, LARGE.model, NLP),
            paper="-1.177 and -1.350",
        ),
        Claim(
            "a larger Switch model is ahead of a smaller one with as many experts",
            "the smaller ahead",
            ahead(SWITCH_LARGE.model, SWITCH.model, NLP),
            paper="-1.177 and -1.306",
        ),
        Claim(
            "many experts and few FLOPs (Switch-C) are ahead of a dense model of many times the "
            "FLOPs (T5-XXL)",
            "the dense model ahead",
            ahead(EXPERTS[64].model, LARGE.model, NLP),
            paper="-1.043 and -1.095, with a seventh of the FLOPs",
        ),
    ),
    folder=FOLDER,
    picture="sizes",
)
EXPERIMENTS = (TABLE1, TABLE9, FIGURE1, FIGURE4, FIGURE5, FIGURE6, FIGURE12)
