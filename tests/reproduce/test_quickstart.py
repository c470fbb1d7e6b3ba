import json

import pytest

from switch_tf.benches import dtype
from switch_tf.reproduce import quickstart


@pytest.fixture(params=[quickstart.SHORT, quickstart.LONG], ids=["short", "long"])
def arms(request, tmp_path):
    return quickstart.arms(request.param, tmp_path, "bfloat16")


def test_both_models_see_the_same_batches(arms):
    pretrain, finetune = arms
    same = ("MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "BATCH_SIZE", "TRAIN_STEPS", "SEED")
    for runs in ([p[0] for p in pretrain.values()], finetune.values()):
        dense, sparse = ({name: arm.settings[name] for name in same} for arm in runs)
        assert dense == sparse


def test_the_switch_model_lies_on_eight_devices_with_its_experts(arms):
    pretrain, finetune = arms
    for arm in (*pretrain["Switch"], finetune["Switch"]):
        assert arm.settings["MESH_SHAPE"] == "batch:8"
        assert arm.settings["LAYOUT_RULES"] == "batch:batch,experts:batch"
        assert arm.settings["NUM_EXPERTS"] == pretrain["Switch"][0].settings["NUM_EXPERTS"]
    assert all("NUM_EXPERTS" not in a.settings for a in pretrain["dense T5"])


def test_fine_tuning_starts_from_seed_0_of_the_same_model(arms):
    pretrain, finetune = arms
    for model, arm in finetune.items():
        assert pretrain[model][0].settings["SEED"] == 0
        start = arm.settings["INITIAL_CHECKPOINT_PATH"]
        assert start == str(pretrain[model][0].model_dir)


def test_folders_of_runs_differ(arms):
    pretrain, finetune = arms
    every = [a.model_dir for runs in pretrain.values() for a in runs]
    every += [a.model_dir for a in finetune.values()]
    assert len(set(every)) == len(every)


def test_the_dtype_is_timed_once_and_kept(tmp_path, monkeypatch):
    times = {"float32": 2.0, "bfloat16": 1.0}
    monkeypatch.setattr(quickstart, "seconds_per_layer", lambda: times)
    path = tmp_path / "settings.json"
    assert quickstart._dtype(path) == "bfloat16"
    times.update(float32=0.5)
    assert quickstart._dtype(path) == "bfloat16"
    assert json.loads(path.read_text())["dtype"] == "bfloat16"


def test_both_dtypes_are_timed(monkeypatch):
    monkeypatch.setattr(dtype, "_SECONDS", 0.01)
    found = dtype.seconds_per_layer()
    assert set(found) == {"float32", "bfloat16"}
    assert all(0.0 < seconds < 1.0 for seconds in found.values())
