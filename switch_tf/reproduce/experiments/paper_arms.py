"""The paper's own runs, of the sizes, steps and batches that it names, for `--scale=paper`.

Models are those of `gin/models`. The paper names 32 TPUv3 cores for Table 1; runs of base and large
models have as many here. XXL has 512 cores and Switch-C 2,048, one an expert, as in Sec. 5. Seeds
are the paper's: one, but for Table 3.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from switch_tf.reproduce.experiment import Arm

Bindings = Mapping[str, Any]
_PRETRAIN, _FINETUNE = "runs/paper_pretrain.gin", "runs/paper_finetune.gin"
_TABLE1 = {"TRAIN_STEPS": 100_000}
# Task or mixture -> its module, and lengths of inputs and targets that hold nearly all examples.
_TASKS = {
    "glue": ("glue", 512, 84),
    "cnn_dailymail": ("summarization", 512, 512),
    "squad": ("squad", 512, 62),
    "super_glue": ("super_glue", 512, 62),
    "winogrande_xl": ("reading", 128, 32),
    "xsum": ("summarization", 512, 128),
    "anli_r3": ("reading", 512, 16),
    "arc_easy": ("reading", 256, 32),
    "arc_challenge": ("reading", 256, 32),
    "web_questions": ("closed_book", 128, 36),
    "natural_questions_open": ("closed_book", 128, 36),
    "trivia_qa_open": ("closed_book", 128, 36),
}
_TASKS_OF_TABLE4 = ("glue", "cnn_dailymail", "squad", "super_glue")
_MC4 = {"MIXTURE_OR_TASK_NAME": "mc4", "MIXTURE_OR_TASK_MODULE": "switch_tf.tasks.mc4"}


def _on(cores: int) -> Bindings:
    return {"MESH_SHAPE": f"batch:{cores}", "DEVICE_TYPE": "TPU", "DTYPE": "bfloat16"}


def _dense(model: str, file: str, bindings: Bindings = _TABLE1, cores: int = 32) -> Arm:
    return Arm(model, (f"{file}.gin", "layouts/data.gin", _PRETRAIN), _on(cores) | bindings)


def _sparse(
    model: str,
    bindings: Bindings,
    file: str = "models/switch_base",
    seeds: Sequence[int] = (),
    cores: int = 32,
) -> Arm:
    files = (f"{file}.gin", "layouts/expert_data.gin", _PRETRAIN)
    # Groups that do not depend on how many cores share them.
    groups = {"GROUPS_MULTIPLE": cores}
    return Arm(model, files, _on(cores) | groups | _TABLE1 | bindings, seeds)


def _experts(number: int) -> Arm:
    # A core holds one expert at least.
    name = f"Switch-Base, {number} experts"
    return _sparse(name, {"NUM_EXPERTS": number}, cores=min(number, 32))


def _tuned(arm: Arm, task: str, told: str = "", bindings: Bindings | None = None) -> Arm:
    module, inputs, targets = _TASKS[task]
    given = {
        "MIXTURE_OR_TASK_NAME": task,
        "MIXTURE_OR_TASK_MODULE": f"switch_tf.tasks.{module}",
        "TASK_FEATURE_LENGTHS": {"inputs": inputs, "targets": targets},
    }
    kept = {name: value for name, value in arm.bindings.items() if name != "TRAIN_STEPS"}
    if arm.gin_files[0].startswith("models/t5"):
        given["DROPOUT_RATE"] = 0.1
    return Arm(
        f"{arm.model}, {told}{task}",
        (*arm.gin_files[:-1], _FINETUNE),
        kept | given | (bindings or {}),
        starts_from=arm,
    )


def _student(teacher: Arm, told: str, hard_weight: float = 0.75, is_started: bool = True) -> Arm:
    taught = {
        "train.distillation": "@Distillation",
        "Distillation.teacher_path": "%TEACHER_PATH",
        "Distillation.hard_weight": hard_weight,
    }
    started = {
        "INITIAL_CHECKPOINT_SKIPPED": ["switch_ffn/"],
        "INITIAL_CHECKPOINT_FRESH": ["/ffn/"],
    }
    return Arm(
        f"T5-Base, {told}",
        T5_BASE.gin_files,
        {**T5_BASE.bindings, **taught, **(started if is_started else {})},
        starts_from=teacher if is_started else None,
        teacher=teacher,
    )


T5_BASE, T5_LARGE = _dense("T5-Base", "models/t5_base"), _dense("T5-Large", "models/t5_large")
EXPERTS = {number: _experts(number) for number in (2, 4, 8, 16, 32, 64, 128, 256)}
SWITCH_BASE = EXPERTS[128]
SWITCH_LARGE = _sparse("Switch-Large", {}, "models/switch_large")
_CAPACITY = (
    SWITCH_BASE,
    *(_sparse(f"Switch-Base, capacity {f}", {"CAPACITY_FACTOR": f}) for f in (2.0, 1.0)),
)
_MOE = tuple(
    _sparse(f"MoE-Base, capacity {f}", {"CAPACITY_FACTOR": f}, "models/moe_base")
    for f in (2.0, 1.25, 1.0)
)
_PLUS = _sparse("Switch-Base, wider (+)", {}, "models/switch_base_plus")
_PRECISION = tuple(
    _sparse(f"{name} precision", {"DTYPE": dtype}, f"tables/precision_{name}")
    for name, dtype in (("float32", "float32"), ("bfloat16", "bfloat16"), ("selective", "bfloat16"))
)
_SCALE = "TransformerEncoderDecoder.init_scale"
_INIT = tuple(
    _sparse(
        f"init scale {scale}",
        {"NUM_EXPERTS": 32, "TRAIN_STEPS": 3500, _SCALE: scale},
        seeds=(0, 1, 2),
    )
    for scale in (0.1, 1.0)
)
_SWITCH_ATTENTION = {"TransformerEncoderDecoder.switch_attention": "@SwitchAttention"}
_ALONE = _SWITCH_ATTENTION | {"TransformerEncoderDecoder.switch_ffn": None}
_ATTENTION = tuple(
    # 524,288 tokens a batch.
    _sparse(
        f"experts in {where}, {dtype}",
        {"NUM_EXPERTS": 32, "BATCH_SIZE": 1024, "DTYPE": dtype, **bindings},
    )
    for where, bindings, dtypes in (
        ("FFN", {}, ("float32",)),
        ("attention", _ALONE, ("float32", "bfloat16")),
        ("FFN and attention", _SWITCH_ATTENTION, ("float32", "bfloat16")),
    )
    for dtype in dtypes
)
_POLICY = tuple(
    _sparse(f"policy {policy}", {"SwitchRouter.policy": policy})
    for policy in ("argmax", "sample", "input_dropout", "input_jitter")
)
_DROPOUT = tuple(
    arm
    for task in _TASKS_OF_TABLE4
    for arm in (
        _tuned(T5_BASE, task, "dropout 0.1, "),
        *(
            _tuned(
                SWITCH_BASE,
                task,
                f"dropout {rate}, ",
                {"DROPOUT_RATE": rate, "EXPERT_DROPOUT_RATE": None},
            )
            for rate in (0.1, 0.2, 0.3)
        ),
        _tuned(
            SWITCH_BASE,
            task,
            "dropout 0.1, in experts 0.4, ",
            {"DROPOUT_RATE": 0.1, "EXPERT_DROPOUT_RATE": 0.4},
        ),
    )
)
_PRETRAINED = (T5_BASE, SWITCH_BASE, T5_LARGE, SWITCH_LARGE)
_TUNED = tuple(_tuned(arm, t) for arm in _PRETRAINED for t in _TASKS if t != "cnn_dailymail")
_UPSTREAM = (T5_BASE, T5_LARGE, *(EXPERTS[n] for n in (8, 32, 128)), SWITCH_LARGE)
_DOWNSTREAM = tuple(_tuned(arm, t) for arm in _UPSTREAM for t in ("super_glue", "trivia_qa_open"))
_TEACHER = EXPERTS[64]
_STARTED = Arm(
    "T5-Base, started from the teacher",
    T5_BASE.gin_files,
    T5_BASE.bindings
    | {
        "INITIAL_CHECKPOINT_SKIPPED": ["switch_ffn/"],
        "INITIAL_CHECKPOINT_FRESH": ["/ffn/"],
    },
    starts_from=_TEACHER,
)
_TUNED_TEACHER = _tuned(SWITCH_BASE, "super_glue")
_TUNED_STUDENT = Arm(
    "T5-Base, distilled on super_glue",
    _tuned(T5_BASE, "super_glue").gin_files,
    _tuned(T5_BASE, "super_glue").bindings
    | {"train.distillation": "@Distillation", "Distillation.teacher_path": "%TEACHER_PATH"},
    starts_from=T5_BASE,
    teacher=_TUNED_TEACHER,
)
_TABLE9 = {"TRAIN_STEPS": 500_000}
_SIZES = (
    _dense("T5-Base, 500k steps", "models/t5_base", _TABLE9),
    _dense("T5-Large, 500k steps", "models/t5_large", _TABLE9),
    _dense("T5-XXL", "models/t5_xxl", _TABLE9, 512),
    _sparse("Switch-Base, 500k steps", _TABLE9),
    _sparse("Switch-Large, 500k steps", _TABLE9, "models/switch_large"),
    Arm(
        "Switch-XXL",
        ("models/switch_xxl.gin", "layouts/expert_model_data.gin", _PRETRAIN),
        {**_on(512), **_TABLE9, "MESH_SHAPE": "batch:64,model:8", "GROUPS_MULTIPLE": 64},
    ),
    _sparse(
        "Switch-C",
        _TABLE9 | {"Evaluation.dropless": False, "Evaluation.batch_size": 2048},
        "models/switch_c",
        cores=2048,
    ),
)
_LANGUAGES = (
    _dense("mT5-Base", "models/mt5_base", _MC4),
    _sparse("mSwitch-Base", _MC4, "models/mswitch_base"),
)
_SCALED = (T5_BASE, *EXPERTS.values())
# Experiment -> its runs, each behind those that it starts from.
ARMS: Mapping[str, Sequence[Arm]] = {
    "table1": (T5_BASE, T5_LARGE, *_MOE, *_CAPACITY, _PLUS),
    "table2": _PRECISION,
    "table3": _INIT,
    "table4": (T5_BASE, SWITCH_BASE, *_DROPOUT),
    "table5": (*_PRETRAINED, *_TUNED),
    "table6": (
        T5_BASE,
        _TEACHER,
        _student(_TEACHER, "distilled", 0.0, is_started=False),
        _student(_TEACHER, "distilled, started", 0.0),
        _student(_TEACHER, "distilled, started, mixed"),
        _STARTED,
    ),
    "table7": tuple(
        arm
        for n in (16, 32, 64, 128, 256)
        for arm in (EXPERTS[n], _student(EXPERTS[n], f"distilled from {n} experts"))
    ),
    "table8": (T5_BASE, SWITCH_BASE, _TUNED_TEACHER, _TUNED_STUDENT),
    "table9": _SIZES,
    "table10": _ATTENTION,
    "table11": _POLICY,
    "figure1": _SCALED,
    "figure4": _SCALED,
    "figure5": _SCALED,
    "figure6": (T5_BASE, T5_LARGE, EXPERTS[64]),
    "figure7": _LANGUAGES,
    "figure12": (T5_BASE, *(EXPERTS[n] for n in (2, 4, 8))),
    "figure13": (*_UPSTREAM, *_DOWNSTREAM),
}
