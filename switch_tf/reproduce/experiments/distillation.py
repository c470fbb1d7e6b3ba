"""Distillation of Switch models into dense ones (Tables 6, 7 and 8)."""

from switch_tf.reproduce.experiment import Arm, Experiment
from switch_tf.reproduce.experiments.mini import (
    ACCURACY,
    DISTILL,
    FOLDER,
    NLP,
    PRETRAIN,
    SEEDS,
    SWITCH,
    T5,
    finetuned,
    of_experts,
)
from switch_tf.reproduce.metrics import Metric
from switch_tf.reproduce.verdict import Claim, ahead, keeps

_STUDENT = "models/t5_tiny.gin"
# A dense student has all weights of the teacher but for those of the experts and routers; its own
# feed-forward layers are fresh.
_FROM_TEACHER = {
    "INITIAL_CHECKPOINT_SKIPPED": ["switch_ffn/"],
    "INITIAL_CHECKPOINT_FRESH": ["/ffn/"],
}


def _student(model: str, teacher: Arm, hard_weight: float, is_started: bool) -> Arm:
    bindings = {"Distillation.hard_weight": hard_weight}
    return Arm(
        model,
        (_STUDENT, DISTILL),
        bindings | (_FROM_TEACHER if is_started else {}),
        SEEDS,
        minutes=12.0,
        starts_from=teacher if is_started else None,
        teacher=teacher,
    )


ALONE = _student("distilled", SWITCH, 0.0, is_started=False)
STARTED = _student("distilled, started from the teacher", SWITCH, 0.0, is_started=True)
MIXED = _student("distilled, started, 0.75 of targets", SWITCH, 0.75, is_started=True)
START = Arm(
    "started from the teacher, not distilled",
    (_STUDENT, PRETRAIN),
    _FROM_TEACHER,
    SEEDS,
    minutes=8.0,
    starts_from=SWITCH,
)
TABLE6 = Experiment(
    name="table6",
    reproduces="Table 6: distilling Switch into the dense model of its FLOPs",
    arms=(T5, SWITCH, ALONE, STARTED, MIXED, START),
    metrics=(NLP,),
    paper={
        T5.model: {NLP.name: -1.636},
        SWITCH.model: {NLP.name: -1.444},
        ALONE.model: {NLP.name: -1.631},
        STARTED.model: {NLP.name: -1.598},
        MIXED.model: {NLP.name: -1.580},
        START.model: {NLP.name: -1.639},
    },
    claims=(
        Claim(
            "the student that starts with the teacher's weights and learns 0.75 of the targets and "
            "0.25 of the teacher keeps a part of the teacher's lead (29% in the paper)",
            "it is behind the dense model that was trained alone",
            keeps(MIXED.model, SWITCH.model, T5.model, NLP),
            paper="29% of the lead",
        ),
        Claim(
            "learning from the teacher alone keeps less of it than the mix",
            "the teacher alone ahead",
            ahead(MIXED.model, STARTED.model, NLP),
            paper="-1.598 and -1.580",
        ),
        Claim(
            "starting with the teacher's weights helps a student that learns from the teacher",
            "the student with fresh weights ahead",
            ahead(STARTED.model, ALONE.model, NLP),
            paper="-1.598 and -1.631",
        ),
        Claim(
            "these weights alone, without distillation, are no help",
            "the student that only starts with them ahead of the mix",
            ahead(MIXED.model, START.model, NLP),
            paper="-1.639 and -1.580",
        ),
    ),
    folder=FOLDER,
    picture="curves",
)
_TEACHERS = {number: of_experts(number) for number in (2, 8, 32)}
_STUDENTS = {
    number: MIXED
    if number == 8
    else _student(f"distilled from {number} experts", teacher, 0.75, is_started=True)
    for number, teacher in _TEACHERS.items()
}
TABLE7 = Experiment(
    name="table7",
    reproduces="Table 7: teachers of different sizes",
    arms=(T5, *_TEACHERS.values(), *_STUDENTS.values()),
    metrics=(NLP,),
    # The paper's teachers of 1.1B, 3.8B and 14.7B parameters: 16, 64 and 256 experts.
    paper={
        _TEACHERS[2].model: {NLP.name: -1.505},
        _TEACHERS[8].model: {NLP.name: -1.444},
        _TEACHERS[32].model: {NLP.name: -1.427},
        _STUDENTS[2].model: {NLP.name: -1.587},
        _STUDENTS[8].model: {NLP.name: -1.579},
        _STUDENTS[32].model: {NLP.name: -1.578},
    },
    claims=tuple(
        Claim(
            f"a student of the dense model's size keeps a part of the lead of {number} experts",
            "it is behind the dense model that was trained alone",
            keeps(_STUDENTS[number].model, teacher.model, T5.model, NLP),
        )
        for number, teacher in _TEACHERS.items()
    ),
    folder=FOLDER,
    picture="curves",
)


def tuned_claim(student: Arm, teacher: Arm, alone: Arm, metric: Metric) -> Claim:
    """The claim of Table 8.

    Args:
      student: a dense model that is fine-tuned with a teacher.
      teacher: that teacher, fine-tuned.
      alone: the dense model, fine-tuned without it.
      metric: by which they are judged.
    """
    return Claim(
        "a dense model that is fine-tuned with a fine-tuned Switch as teacher keeps a part of "
        "its lead (30% in the paper)",
        "it is behind the dense model that was fine-tuned alone",
        keeps(student.model, teacher.model, alone.model, metric),
        paper="30% of the lead",
    )


_TUNED, _TUNED_TEACHER = finetuned(T5), finetuned(SWITCH)
_TUNED_STUDENT = finetuned(T5, "T5, dense, from a fine-tuned Switch", teacher=_TUNED_TEACHER)
TABLE8 = Experiment(
    name="table8",
    reproduces="Table 8: distilling a fine-tuned model (the paper's figures: SuperGLUE)",
    arms=(_TUNED, _TUNED_TEACHER, _TUNED_STUDENT),
    metrics=(ACCURACY,),
    paper={
        T5.model: {ACCURACY.name: 74.6},
        SWITCH.model: {ACCURACY.name: 81.3},
        _TUNED_STUDENT.model: {ACCURACY.name: 76.6},
    },
    claims=(tuned_claim(_TUNED_STUDENT, _TUNED_TEACHER, _TUNED, ACCURACY),),
    folder=FOLDER,
)
EXPERIMENTS = (TABLE6, TABLE7, TABLE8)
