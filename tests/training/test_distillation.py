"""What a teacher adds to the loss, its gradient, and runs with a teacher."""

import json
import re
import shutil

import gin
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from switch_tf.checkpoints.model_dir import ModelDir
from switch_tf.errors import UserError
from switch_tf.evaluation.eval_step import EvalStep
from switch_tf.mesh import to_numpy
from switch_tf.metrics.writer import read_metrics
from switch_tf.models.losses import cross_entropy, soft_cross_entropy
from switch_tf.optimizers.adafactor import Adafactor
from switch_tf.optimizers.schedules import rsqrt
from switch_tf.training.distillation import Distillation, Teacher
from switch_tf.training.step import TrainStep
from switch_tf.training.train import train
from tests.commands.without_tensorflow import run_without_tensorflow
from tests.helpers import compiled, place, place_features, tiny_model, using
from tests.models.test_losses import LAYOUTS, Z_LOSS, example
from tests.training.test_step import MODEL, batch
from tests.training.test_train import RUN, SMALL, load

AXES = ("batch", "length", "vocab")
EXPERTS = ("batch:2", "batch:batch,experts:batch")


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def by_hand(logits_BLV, teacher_BLV, targets_BL, weights_BL, hard_weight, temperature):
    """Loss, and its gradient by the logits, from the formula in float64."""
    logits_BLV, teacher_BLV = logits_BLV.astype(np.float64), teacher_BLV.astype(np.float64)
    p_BLV, p_T_BLV = (special.softmax(logits_BLV / t, -1) for t in (1.0, temperature))
    q_BLV = special.softmax(teacher_BLV / temperature, -1)
    y_BLV = np.eye(logits_BLV.shape[-1])[targets_BL]
    log_z_BL = special.logsumexp(logits_BLV, axis=-1)
    hard_BL = -(y_BLV * special.log_softmax(logits_BLV, -1)).sum(-1)
    soft_BL = -(q_BLV * special.log_softmax(logits_BLV / temperature, -1)).sum(-1)
    loss_BL = hard_weight * hard_BL + Z_LOSS * log_z_BL**2
    loss_BL += (1 - hard_weight) * temperature**2 * soft_BL
    gradient_BLV = hard_weight * (p_BLV - y_BLV) + 2 * Z_LOSS * log_z_BL[..., None] * p_BLV
    gradient_BLV += (1 - hard_weight) * temperature * (p_T_BLV - q_BLV)
    count = weights_BL.sum()
    return (loss_BL * weights_BL).sum() / count, gradient_BLV * weights_BL[..., None] / count


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("hard_weight", "temperature"), [(0.75, 1.0), (0.3, 2.0), (0.0, 0.5)])
def test_loss_and_gradient_are_those_of_the_formula(layout, hard_weight, temperature):
    logits_BLV, targets_BL, weights_BL = example()
    teacher_BLV, *_ = example(seed=1)
    expected, expected_BLV = by_hand(
        logits_BLV, teacher_BLV, targets_BL, weights_BL, hard_weight, temperature
    )

    @compiled
    def loss_and_gradient(logits_BLV, teacher_BLV, targets_BL, weights_BL):
        with tf.GradientTape() as tape:
            tape.watch([logits_BLV, teacher_BLV])
            *_, loss = cross_entropy(
                logits_BLV, targets_BL, weights_BL, Z_LOSS, entropy_weight=hard_weight
            )
            soft_BL = soft_cross_entropy(logits_BLV, teacher_BLV, temperature)
            soft = tf.reduce_sum(soft_BL * weights_BL) / tf.reduce_sum(weights_BL)
            loss += (1.0 - hard_weight) * soft
        gradients = tape.gradient(
            loss, [logits_BLV, teacher_BLV], unconnected_gradients=tf.UnconnectedGradients.NONE
        )
        assert gradients[1] is None
        return loss, gradients[0]

    with using(LAYOUTS[layout]):
        placed = [
            *(place(array_BLV, AXES) for array_BLV in (logits_BLV, teacher_BLV)),
            *(place(array_BL, AXES[:2]) for array_BL in (targets_BL, weights_BL)),
        ]
        loss, gradient_BLV = map(to_numpy, loss_and_gradient(*placed))
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient_BLV, expected_BLV, rtol=1e-4, atol=1e-6)


def one_step(mesh, teacher=None, microbatches=1, hard_weight=0.75):
    """Figures and new weights of a step of a dense student, maybe with a sparse teacher."""
    model = tiny_model(expert_frequency=0, seed=5)
    optimizer = Adafactor(rsqrt(warmup_steps=100))
    optimizer.build(model.trainable_variables)
    if teacher is not None:
        settings = Distillation("unused", hard_weight, temperature=2.0)
        teacher = Teacher(teacher, "its path", settings)
    step = TrainStep(model, optimizer, mesh, 3, microbatches=microbatches, teacher=teacher)
    found = step(place_features(batch()), 0)
    return found, [to_numpy(v) for v in model.trainable_variables]


@pytest.mark.parametrize("layout", [("batch:2", "batch:batch,experts:batch"), ("model:2", MODEL)])
def test_a_step_weighs_targets_and_teacher_and_tells_of_both(layout):
    with using(layout) as mesh:
        teacher = tiny_model(seed=7)
        found, _ = one_step(mesh, teacher)
        sums = EvalStep(teacher, dropless=False)(place_features(batch()))
    assert found["teacher_nlp"] == pytest.approx(-sums["cross_entropy"] / sums["tokens"], rel=1e-4)
    assert found["soft_cross_entropy"] > 0
    weighed = 0.75 * -found["nlp"] + 0.25 * found["soft_cross_entropy"] + found["z_loss"]
    assert found["loss"] == pytest.approx(weighed, rel=1e-5)


def test_a_teacher_without_weight_changes_nothing():
    with using(EXPERTS) as mesh:
        _, with_teacher = one_step(mesh, tiny_model(seed=7), hard_weight=1.0)
        _, alone = one_step(mesh)
    for weight, other in zip(with_teacher, alone, strict=True):
        np.testing.assert_array_equal(weight, other)


def test_a_teacher_changes_the_update_and_keeps_its_own_weights():
    with using(EXPERTS) as mesh:
        teacher = tiny_model(seed=7)
        before = [to_numpy(v) for v in teacher.trainable_variables]
        _, with_teacher = one_step(mesh, teacher)
        _, alone = one_step(mesh)
        after = [to_numpy(v) for v in teacher.trainable_variables]
    assert any((a != b).any() for a, b in zip(with_teacher, alone, strict=True))
    for weight, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(weight, other)


def test_micro_batches_learn_the_same_from_a_teacher():
    with using(EXPERTS) as mesh:
        teacher = tiny_model(expert_frequency=0, seed=7)
        whole, weights = one_step(mesh, teacher)
        parts, others = one_step(mesh, teacher, microbatches=2)
    for name in ("loss", "soft_cross_entropy", "teacher_nlp"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-5)
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The MODEL_DIRs of a sparse teacher, and of a dense student that starts from it."""
    folder = tmp_path_factory.mktemp("taught")
    given = SMALL | RUN | {"TRAIN_STEPS": 2, "EVAL_PERIOD": 2, "CHECKPOINT_PERIOD": 1}
    files = ["layouts/expert_data.gin", "runs/pretrain.gin"]
    load(["models/switch_tiny.gin", *files], given | {"MODEL_DIR": str(folder / "teacher")})
    train()
    distill(folder / "student", folder / "teacher", TRAIN_STEPS=2)
    gin.clear_config()
    return folder


def distill(model_dir, teacher, **settings):
    own = {"NUM_EXPERTS", "GROUPS_MULTIPLE"}
    given = {name: value for name, value in (SMALL | RUN).items() if name not in own}
    given |= {"MODEL_DIR": str(model_dir), "TEACHER_PATH": str(teacher), "CHECKPOINT_PERIOD": 1}
    given |= {"INITIAL_CHECKPOINT_PATH": str(teacher), "EVAL_PERIOD": 2}
    given |= {
        "INITIAL_CHECKPOINT_SKIPPED": ["switch_ffn/"],
        "INITIAL_CHECKPOINT_FRESH": ["/ffn/"],
    }
    files = ["models/t5_tiny.gin", "layouts/data.gin", "runs/distill.gin"]
    load(files, given | settings)
    train()


def records(folder):
    return [r for r in read_metrics(str(folder)) if r["kind"] == "train"]


def test_a_dense_student_of_a_sparse_teacher_is_trained_and_resumed(taught, tmp_path, capsys):
    distill(tmp_path / "student", taught / "teacher", TRAIN_STEPS=1)
    told = capsys.readouterr().out
    assert re.search(r"variables restored, \d+ \(\S*ffn/\S+.*\) fresh, \d+ \(\S*switch_ffn/", told)
    assert re.search(
        r"; distilled: 0.75 targets \+ 0.25 teacher at temperature 1; teacher: [\d,]+ parameters, "
        rf"{taught}/teacher/checkpoint_2$",
        told,
        re.MULTILINE,
    )
    distill(tmp_path / "student", taught / "teacher", TRAIN_STEPS=2)
    found, whole = records(tmp_path / "student"), records(taught / "student")
    assert [r["loss"] for r in found] == [r["loss"] for r in whole]
    assert all(r["soft_cross_entropy"] > 0 > r["teacher_nlp"] for r in whole)
    assert ModelDir(str(tmp_path / "student")).steps() == [1, 2]


def test_a_teacher_whose_run_does_not_say_its_model_is_refused(taught, tmp_path):
    teacher = shutil.copytree(taught / "teacher", tmp_path / "teacher")
    facts = json.loads((teacher / "run.json").read_text())
    del facts["model"]
    (teacher / "run.json").write_text(json.dumps(facts))
    told = f"^Distillation.teacher_path='{teacher}/checkpoint_2': its run has no run.json that says"
    with pytest.raises(UserError, match=told):
        distill(tmp_path / "student", teacher)


def test_a_teacher_with_another_vocabulary_is_refused(taught, tmp_path):
    teacher = shutil.copytree(taught / "teacher", tmp_path / "teacher")
    facts = json.loads((teacher / "run.json").read_text())
    (teacher / "run.json").write_text(json.dumps(facts | {"vocabulary": "another"}))
    with pytest.raises(UserError, match="^Distillation.teacher_path=.* holds a model with a vocab"):
        distill(tmp_path / "student", teacher, INITIAL_CHECKPOINT_PATH=str(taught / "teacher"))


def test_a_teacher_that_is_not_there_is_told_before_tensorflow_starts(tmp_path):
    files = ["models/t5_tiny.gin", "runs/distill.gin"]
    flags = [f"--gin_file={name}" for name in files]
    flags += [f"--gin.MODEL_DIR='{tmp_path}/student'", f"--gin.TEACHER_PATH='{tmp_path}/no'"]
    done = run_without_tensorflow("train", *flags)
    assert done.stderr.startswith(
        f"switch-tf: error: TEACHER_PATH='{tmp_path}/no': no such folder; give a MODEL_DIR"
    )
    assert done.returncode == 2 and not (tmp_path / "student").exists()
