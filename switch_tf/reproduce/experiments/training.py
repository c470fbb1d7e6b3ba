"""What makes training stable, and exploration (Tables 2, 3, 10, 11)."""

from switch_tf.reproduce.experiment import Experiment
from switch_tf.reproduce.experiments.mini import EXAMPLES, FOLDER, NLP, SWITCH, switch
from switch_tf.reproduce.verdict import Claim, ahead, alike, every, steadier

# Early in training, where instability shows; a third of the tables' steps.
_SHORT = {"TRAIN_STEPS": 300, "EVAL_PERIOD": 50}
# Ten times the recipe's rate: the largest at which the float32 model still trains.
_HIGH_RATE = _SHORT | {"schedules.rsqrt.scale": 10.0}
_PRECISIONS = {
    "float32": {"DTYPE": "float32"},
    "bfloat16": {"DTYPE": "bfloat16", "Router.dtype": "bfloat16"},
    "selective": {"DTYPE": "bfloat16"},
}
PRECISION = {
    name: switch(f"{name} precision", _HIGH_RATE | bindings, 3.0)
    for name, bindings in _PRECISIONS.items()
}
TABLE2 = Experiment(
    name="table2",
    reproduces="Table 2: float32, bfloat16 and selective precision",
    arms=tuple(PRECISION.values()),
    metrics=(NLP, EXAMPLES),
    paper={
        PRECISION["float32"].model: {NLP.name: -1.718, EXAMPLES.name: 1160},
        PRECISION["bfloat16"].model: {NLP.name: -3.780, EXAMPLES.name: 1390},
        PRECISION["selective"].model: {NLP.name: -1.716, EXAMPLES.name: 1390},
    },
    claims=(
        Claim(
            "a router in float32 keeps the quality of float32 throughout, within 0.05 nats",
            "a difference of more",
            alike(PRECISION["selective"].model, PRECISION["float32"].model, NLP, within=0.05),
            paper="-1.716 and -1.718",
        ),
        Claim(
            "bfloat16 throughout, the router too, is behind or diverges",
            "bfloat16 throughout ahead",
            ahead(PRECISION["selective"].model, PRECISION["bfloat16"].model, NLP),
            paper="-3.780",
        ),
        Claim(
            "selective precision is as fast as bfloat16 and faster than float32",
            "float32 faster",
            ahead(PRECISION["selective"].model, PRECISION["float32"].model, EXAMPLES),
            paper="1390 and 1160 examples/s",
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
_SCALE = "TransformerEncoderDecoder.init_scale"
INIT = {
    scale: switch(f"init scale {scale}", _SHORT | {_SCALE: scale}, 3.0, seeds=tuple(range(5)))
    for scale in (0.1, 1.0)
}
TABLE3 = Experiment(
    name="table3",
    reproduces="Table 3: a tenth of the usual scale of initial weights",
    arms=tuple(INIT.values()),
    metrics=(NLP,),
    paper={INIT[0.1].model: {NLP.name: -2.72}, INIT[1.0].model: {NLP.name: -3.60}},
    claims=(
        Claim(
            "with scale 0.1, NLP early in training is better than with 1.0",
            "1.0 ahead",
            ahead(INIT[0.1].model, INIT[1.0].model, NLP),
            paper="-2.72 and -3.60",
        ),
        Claim(
            "with scale 0.1, seeds differ less than with 1.0 (standard deviations 0.01 and 0.68)",
            "seeds of 1.0 nearer to each other",
            steadier(INIT[0.1].model, INIT[1.0].model, NLP),
            paper="0.01 and 0.68",
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
_ATTENTION = {"TransformerEncoderDecoder.switch_attention": "@SwitchAttention"}
# Experts in attention alone: no feed-forward layer is sparse.
_DENSE_FFN = {"TransformerEncoderDecoder.switch_ffn": None}
_BFLOAT16 = {"DTYPE": "bfloat16"}
ATTENTION = {
    "attention": switch("experts in attention, float32", _ATTENTION | _DENSE_FFN, 13.0),
    "both": switch("experts in attention and FFN, float32", _ATTENTION, 16.0),
    "attention, bfloat16": switch(
        "experts in attention, bfloat16", _ATTENTION | _DENSE_FFN | _BFLOAT16, 8.0
    ),
    "both, bfloat16": switch(
        "experts in attention and FFN, bfloat16", _ATTENTION | _BFLOAT16, 10.0
    ),
}
TABLE10 = Experiment(
    name="table10",
    reproduces="Table 10: experts in attention",
    arms=(SWITCH, *ATTENTION.values()),
    metrics=(NLP, EXAMPLES),
    paper={
        SWITCH.model: {NLP.name: -1.548, EXAMPLES.name: 1480},
        ATTENTION["attention"].model: {NLP.name: -1.524, EXAMPLES.name: 1330},
        ATTENTION["both"].model: {NLP.name: -1.513, EXAMPLES.name: 1240},
    },
    claims=(
        Claim(
            "in float32, experts in attention are ahead of experts in the FFN after the same steps",
            "experts in the FFN ahead",
            ahead(ATTENTION["attention"].model, SWITCH.model, NLP),
            paper="-1.524 and -1.548",
        ),
        Claim(
            "in float32, experts in both are ahead of experts in the FFN alone",
            "experts in the FFN ahead",
            ahead(ATTENTION["both"].model, SWITCH.model, NLP),
            paper="-1.513 and -1.548",
        ),
        Claim(
            "experts in attention take time: fewer examples a second than experts in the FFN alone",
            "experts in attention faster",
            every(
                [ahead(SWITCH.model, ATTENTION[n].model, EXAMPLES) for n in ("attention", "both")]
            ),
            paper="1330, 1240 and 1480 examples/s",
        ),
        Claim(
            "in bfloat16, experts in attention diverge",
            "as good as in float32, or better",
            ahead(ATTENTION["attention"].model, ATTENTION["attention, bfloat16"].model, NLP),
            paper="diverged",
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
_POLICIES = {
    "argmax": -1.471,
    "sample": -1.570,
    "input_dropout": -1.480,
}
POLICY = {name: switch(f"policy {name}", {"SwitchRouter.policy": name}) for name in _POLICIES}
TABLE11 = Experiment(
    name="table11",
    reproduces="Table 11: exploration of the router",
    arms=(SWITCH, *POLICY.values()),
    metrics=(NLP,),
    paper={POLICY[name].model: {NLP.name: nlp} for name, nlp in _POLICIES.items()}
    | {SWITCH.model: {NLP.name: -1.468}},
    claims=(
        Claim(
            "input jitter is ahead of sampling an expert from the router's probabilities",
            "sampling ahead",
            ahead(SWITCH.model, POLICY["sample"].model, NLP),
            paper="-1.468 and -1.570",
        ),
        Claim(
            "input jitter is the best of the four, ahead of each other policy",
            "another policy ahead",
            every([ahead(SWITCH.model, arm.model, NLP) for arm in POLICY.values()]),
            paper="-1.468; -1.471, -1.480, -1.570",
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
EXPERIMENTS = (TABLE2, TABLE3, TABLE10, TABLE11)
