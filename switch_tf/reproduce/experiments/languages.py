"""Many languages (Figures 7 and 8), for which offline the libraries of the docstrings stand."""

from switch_tf.reproduce.experiment import Experiment
from switch_tf.reproduce.experiments.mini import FOLDER, dense, switch
from switch_tf.reproduce.metrics import Metric, curve_of, evaluated
from switch_tf.reproduce.verdict import Claim, ahead, every, faster

LIBRARIES = (
    *("tensorflow", "transformers", "scipy", "pandas", "sklearn", "matplotlib", "jax", "nltk"),
)
_TASKS = {name: f"pydocs_libraries.{name}" for name in LIBRARIES}
_MIXTURE = {
    "MIXTURE_OR_TASK_NAME": "pydocs_libraries",
    "MIXTURE_OR_TASK_MODULE": "switch_tf.tasks.pydocs_libraries",
    # Eight tasks are evaluated each time.
    "Evaluation.batches": 8,
}
_NLP = {name: Metric(name, evaluated(task, "nlp"), unit="nats") for name, task in _TASKS.items()}
_CURVES = tuple(
    Metric(f"curve of {name}", curve_of(task), is_shown=False) for name, task in _TASKS.items()
)
M_T5 = dense("T5, dense, of 8 libraries", _MIXTURE)
M_SWITCH = switch("Switch, 8 experts, of 8 libraries", _MIXTURE)
FIGURE7 = Experiment(
    name="figure7",
    reproduces="Figures 7 and 8: quality in each language, and the speed-up (libraries of the "
    "docstrings stand for languages)",
    arms=(M_T5, M_SWITCH),
    metrics=(*_NLP.values(), *_CURVES),
    paper={},
    claims=(
        Claim(
            "mSwitch is ahead of mT5 in each language",
            "mT5 ahead in one",
            every([ahead(M_SWITCH.model, M_T5.model, metric) for metric in _NLP.values()]),
            paper="in all of 101",
        ),
        Claim(
            "mSwitch needs fewer steps for the quality of mT5, mean over languages",
            "mT5 there first",
            faster(M_SWITCH.model, M_T5.model, _CURVES),
            paper="5 times fewer; 4 times or more in 91% of languages",
        ),
    ),
    folder=FOLDER,
    picture="speed_ups",
)
EXPERIMENTS = (FIGURE7,)
