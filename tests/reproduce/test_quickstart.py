import pytest

from switch_tf.reproduce import quickstart


@pytest.fixture(params=[quickstart.SHORT, quickstart.LONG], ids=["short", "long"])
def runs(request, tmp_path):
    """Model -> its pre-training by seed, and model -> its fine-tuning."""
    found = request.param.runs(tmp_path, {"DTYPE": "bfloat16"}).items()
    pretrain = {arm.model: runs for arm, runs in found if arm.starts_from is None}
    return pretrain, {arm.model: run for arm, (run, *_) in found if arm.starts_from}


def test_both_models_see_the_same_batches(runs):
    pretrain, finetune = runs
    same = ("MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "BATCH_SIZE", "TRAIN_STEPS", "SEED")
    for both in ([p[0] for p in pretrain.values()], finetune.values()):
        dense, sparse = ({name: run.settings[name] for name in same} for run in both)
        assert dense == sparse


def test_the_switch_model_lies_on_eight_devices_with_its_experts(runs):
    pretrain, finetune = runs
    for run in (*pretrain["Switch"], finetune["Switch"]):
        assert run.settings["MESH_SHAPE"] == "batch:8"
        assert run.settings["LAYOUT_RULES"] == "batch:batch,experts:batch"
        assert run.settings["NUM_EXPERTS"] == pretrain["Switch"][0].settings["NUM_EXPERTS"]
    assert all("NUM_EXPERTS" not in r.settings for r in pretrain["dense T5"])


def test_fine_tuning_starts_from_seed_0_of_the_same_model(runs):
    pretrain, finetune = runs
    for model, run in finetune.items():
        assert pretrain[model][0].settings["SEED"] == 0
        start = run.settings["INITIAL_CHECKPOINT_PATH"]
        assert start == str(pretrain[model][0].model_dir)


def test_the_folders_of_the_runs_are_those_that_the_pages_name(runs, tmp_path):
    pretrain, finetune = runs
    first = {model: found[0].model_dir for model, found in pretrain.items()}
    assert first == {
        "dense T5": tmp_path / "dense_t5" / "pretrain_seed0",
        "Switch": tmp_path / "switch" / "pretrain_seed0",
    }
    assert finetune["Switch"].model_dir == tmp_path / "switch" / "finetune"
    assert finetune["Switch"].name == "fine-tuning Switch"
    assert pretrain["Switch"][0].name == "pre-training Switch, seed 0"
