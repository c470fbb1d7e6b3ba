from switch_tf.reproduce import experiment
from switch_tf.reproduce.experiments import quickstart


def pretraining(of, folder):
    """Model -> its pre-training runs by seed."""
    found = of.runs(folder, folder).items()
    return {arm.model: runs for arm, runs in found if arm.starts_from is None}


def finetuning(folder):
    """Model -> its fine-tuning run."""
    found = quickstart.SHORT.runs(folder, folder).items()
    return {arm.model: run for arm, (run, *_) in found if arm.starts_from}


def test_all_models_see_the_same_batches(tmp_path):
    same = ("MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "BATCH_SIZE", "TRAIN_STEPS", "SEED")
    for runs in (
        [of_seeds[0] for of_seeds in pretraining(quickstart.SHORT, tmp_path).values()],
        [of_seeds[0] for of_seeds in pretraining(quickstart.LONG, tmp_path).values()],
        list(finetuning(tmp_path).values()),
    ):
        first, *others = ({name: run.settings[name] for name in same} for run in runs)
        assert others and all(other == first for other in others)


def test_a_short_run_has_one_core_and_long_ones_at_most_one_device_an_expert(tmp_path):
    assert (quickstart.SHORT.at_once(2), quickstart.LONG.at_once(2)) == (2, 1)
    short = pretraining(quickstart.SHORT, tmp_path)["Switch"][0], finetuning(tmp_path)["Switch"]
    long = [of_seeds[0] for of_seeds in pretraining(quickstart.LONG, tmp_path).values()]
    found = [(r.settings.get("NUM_EXPERTS"), r.settings.get("MESH_SHAPE")) for r in (*short, *long)]
    assert found == [
        *[(8, None)] * 2,
        (None, "batch:8"),
        *[(4, "batch:4"), (16, "batch:8"), (64, "batch:8")],
    ]


def test_two_cores_end_together(tmp_path):
    runs = experiment.in_order(quickstart.SHORT.runs(tmp_path, tmp_path))
    assert [run.name for run in runs] == [
        "pre-training dense T5, seed 0",
        "pre-training Switch, seed 0",
        "pre-training dense T5, seed 1",
        "fine-tuning dense T5",
        "fine-tuning Switch",
    ]
    # One core takes the pre-trainings of dense T5, the other one the rest.
    one, other = runs[0:3:2], [runs[1], *runs[3:]]
    difference = sum(run.minutes for run in one) - sum(run.minutes for run in other)
    assert abs(difference) < 1


def test_the_long_size_has_three_seeds_of_each_model(tmp_path):
    runs = pretraining(quickstart.LONG, tmp_path)
    seeds = {model: [run.settings["SEED"] for run in found] for model, found in runs.items()}
    assert seeds == dict.fromkeys(runs, [0, 1, 2])


def test_fine_tuning_starts_from_seed_0_of_the_same_model(tmp_path):
    pretrain = pretraining(quickstart.SHORT, tmp_path)
    for model, run in finetuning(tmp_path).items():
        assert pretrain[model][0].settings["SEED"] == 0
        start = run.settings["INITIAL_CHECKPOINT_PATH"]
        assert start == str(pretrain[model][0].model_dir)


def test_the_folders_of_the_runs_are_those_that_the_pages_name(tmp_path):
    pretrain, finetune = pretraining(quickstart.SHORT, tmp_path), finetuning(tmp_path)
    first = {model: found[0].model_dir for model, found in pretrain.items()}
    assert first == {
        "dense T5": tmp_path / "dense_t5" / "pretrain_seed0",
        "Switch": tmp_path / "switch" / "pretrain_seed0",
    }
    assert finetune["Switch"].model_dir == tmp_path / "switch" / "finetune"
    assert finetune["Switch"].name == "fine-tuning Switch"
    assert pretrain["Switch"][0].name == "pre-training Switch, seed 0"
