"""Tables 4, 5 and 8 on tasks of the paper itself, for those who have their data.

`switch-tf reproduce run table5_super_glue --data_dir=DIR` fine-tunes the models of Table 5 on
SuperGLUE, from official files under DIR; without it, from TFDS. Data are looked for before the
first run. The models are those of the other tables at mini scale, in the vocabulary of their
pre-training.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from switch_tf.reproduce.experiment import Arm, Experiment
from switch_tf.reproduce.experiments.distillation import tuned_claim
from switch_tf.reproduce.experiments.finetuning import dropout_claims
from switch_tf.reproduce.experiments.mini import FOLDER, LARGE, SWITCH, T5, finetuned
from switch_tf.reproduce.metrics import Metric, best
from switch_tf.reproduce.verdict import Claim, ahead


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A task or mixture of Tables 4 and 5.

    Attributes:
      name: its name in SeqIO.
      told: its name in reports.
      module: its module in `switch_tf.tasks`.
      inputs, targets: lengths in tokens of the pre-training's vocabulary, which has shorter pieces
        than T5's. Longer texts are cut, and evaluations say how many were.
      figure: the metric that the paper gives.
    """

    name: str
    told: str
    module: str
    inputs: int
    targets: int
    figure: str = "accuracy"

    @property
    def metric(self) -> Metric:
        """Its figure, in points."""
        return Metric(self.told, best({self.name: self.figure}), unit="points", digits=1)

    def tuned(
        self,
        arm: Arm,
        told: str = "",
        bindings: Mapping[str, float | None] | None = None,
        teacher: Arm | None = None,
    ) -> Arm:
        """An arm that fine-tunes another on it.

        Args:
          told: what its model's name has beside the other's and the benchmark's.
          arm, bindings, teacher: see `mini.finetuned`.
        """
        given = {
            "MIXTURE_OR_TASK_NAME": self.name,
            "MIXTURE_OR_TASK_MODULE": f"switch_tf.tasks.{self.module}",
            "TASK_FEATURE_LENGTHS": {"inputs": self.inputs, "targets": self.targets},
            **(bindings or {}),
        }
        tuned = finetuned(arm, f"{arm.model}{told}, {self.told}", given, teacher)
        return dataclasses.replace(tuned, minutes=3.5 * (self.inputs + self.targets) / 100)


GLUE = Benchmark("glue", "GLUE", "glue", 128, 32, "average")
SUPER_GLUE = Benchmark("super_glue", "SuperGLUE", "super_glue", 512, 32, "average")
SQUAD = Benchmark("squad", "SQuAD", "squad", 256, 32, "em")
_SUMMARIES = {
    name: Benchmark(name, told, "summarization", 384, 96, "rouge2")
    for name, told in (("cnn_dailymail", "CNNDM"), ("xsum", "XSum"))
}
_READING = {
    name: Benchmark(name, told, "reading", inputs, 32)
    for name, told, inputs in (
        ("winogrande_xl", "Winogrande XL", 96),
        ("anli_r3", "ANLI R3", 256),
        ("arc_easy", "ARC Easy", 128),
        ("arc_challenge", "ARC Challenge", 128),
    )
}
_CLOSED_BOOK = {
    name: Benchmark(name, f"{told} without a text", "closed_book", 64, 32, "em")
    for name, told in (
        ("web_questions", "WebQuestions"),
        ("natural_questions_open", "Natural Questions"),
        ("trivia_qa_open", "TriviaQA"),
    )
}
# Figures of T5-Base, of Switch-Base with dropout 0.1, 0.2 and 0.3, and of that with 0.4 in experts.
_PAPER4 = {
    GLUE: (82.9, 84.7, 84.4, 83.9, 85.2),
    _SUMMARIES["cnn_dailymail"]: (19.6, 19.1, 19.2, 19.6, 19.6),
    SQUAD: (83.5, 83.7, 83.9, 83.4, 83.7),
    SUPER_GLUE: (72.4, 73.0, 73.2, 70.7, 73.0),
}
# Figures of T5-Base, Switch-Base and T5-Large.
_PAPER5 = {
    GLUE: (84.3, 86.7, 87.8),
    SQUAD: (85.5, 87.2, 88.1),
    SUPER_GLUE: (75.1, 79.5, 82.7),
    _READING["winogrande_xl"]: (66.6, 73.3, 79.1),
    _SUMMARIES["xsum"]: (18.7, 20.3, 20.9),
    _READING["anli_r3"]: (51.8, 54.0, 56.6),
    _READING["arc_easy"]: (56.7, 61.3, 68.8),
    _READING["arc_challenge"]: (35.5, 32.8, 35.5),
    _CLOSED_BOOK["web_questions"]: (26.6, 27.4, 27.7),
    _CLOSED_BOOK["natural_questions_open"]: (25.8, 26.8, 27.6),
    _CLOSED_BOOK["trivia_qa_open"]: (24.5, 30.7, 29.5),
}


def _experiment(
    table: int,
    benchmark: Benchmark,
    arms: Sequence[Arm],
    paper: Sequence[float],
    claims: Sequence[Claim],
    what: str,
) -> Experiment:
    metric = benchmark.metric
    return Experiment(
        name=f"table{table}_{benchmark.name}",
        reproduces=f"Table {table}: {what} on {benchmark.told}",
        arms=arms,
        metrics=(metric,),
        paper={arm.model: {metric.name: figure} for arm, figure in zip(arms, paper, strict=True)},
        claims=claims,
        folder=FOLDER,
        brings_data=True,
    )


def _table4(benchmark: Benchmark, paper: Sequence[float]) -> Experiment:
    def switch(rate: float, of_experts: float | None = None) -> Arm:
        told = f", dropout {rate}" + ("" if of_experts is None else f", in experts {of_experts}")
        rates = {"DROPOUT_RATE": rate, "EXPERT_DROPOUT_RATE": of_experts}
        return benchmark.tuned(SWITCH, told, rates)

    dense = benchmark.tuned(T5, ", dropout 0.1", {"DROPOUT_RATE": 0.1})
    arms = (dense, *map(switch, (0.1, 0.2, 0.3)), switch(0.1, 0.4))
    # The paper's averages hold for most of its tasks, not for each.
    holds = (paper[4] > paper[1], paper[3] < paper[1])
    claims = dropout_claims(arms, benchmark.metric, paper)
    claims = [claim for claim, is_so in zip(claims, holds, strict=True) if is_so]
    return _experiment(4, benchmark, arms, paper, claims, "regularisation in fine-tuning")


def _table5(benchmark: Benchmark, paper: Sequence[float]) -> Experiment:
    dense, switch, large = arms = [benchmark.tuned(arm) for arm in (T5, SWITCH, LARGE)]
    if paper[1] > paper[0]:
        text, refuted = "Switch is ahead of the dense model of the same FLOPs", "the dense model"
        first, second = switch, dense
    else:
        text, refuted = "the dense model is ahead of Switch of the same FLOPs", "Switch"
        first, second = dense, switch
    claims = [
        Claim(
            f"fine-tuned, {text}",
            f"{refuted} ahead",
            ahead(first.model, second.model, benchmark.metric),
            paper=f"Switch {paper[1]}, dense {paper[0]}",
        )
    ]
    if paper[2] > paper[0]:
        claims.append(
            Claim(
                "fine-tuned, the larger dense model is ahead of the smaller",
                "the smaller ahead",
                ahead(large.model, dense.model, benchmark.metric),
                paper=f"{paper[2]} and {paper[0]}",
            )
        )
    return _experiment(5, benchmark, arms, paper, claims, "fine-tuned models")


def _table8(benchmark: Benchmark) -> Experiment:
    dense, switch = benchmark.tuned(T5), benchmark.tuned(SWITCH)
    student = benchmark.tuned(T5, ", from a fine-tuned Switch", teacher=switch)
    claims = (tuned_claim(student, switch, dense, benchmark.metric),)
    arms, paper = (dense, switch, student), (74.6, 81.3, 76.6)
    return _experiment(8, benchmark, arms, paper, claims, "distilling a fine-tuned model")


EXPERIMENTS = (
    *(_table4(benchmark, paper) for benchmark, paper in _PAPER4.items()),
    *(_table5(benchmark, paper) for benchmark, paper in _PAPER5.items()),
    _table8(SUPER_GLUE),
)
