"""Tasks with a cache, and one written in the form of SeqIO's Beam pipeline."""

import json
import math

import seqio
import tensorflow as tf
from t5.data import preprocessors

BYTES = seqio.ByteVocabulary(extra_ids=100)
LENGTHS = {"inputs": 40, "targets": 24}
# More than a window, and no multiple of it.
COUNTS = {"cached_pairs": 1300, "cached_few": 30, "cached_spans": 300, "cached_drops": 20}
# What the targets of the examples begin with that `cached_drops` does not drop.
KEPT = {"text": "d0007"}


def documents(split, shuffle_files=False, seed=None, *, name):
    count = COUNTS[name] if split == "train" else 10
    texts = [f"{name[7]}{i:04d} " + "lorem ipsum dolor sit amet "[: i % 27] for i in range(count)]
    inputs = [""] * count if name == "cached_spans" else [text[:6] for text in texts]
    return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": texts})


def _only_kept(dataset):
    """Drops all examples but those whose targets begin with KEPT."""
    start = BYTES.encode(KEPT["text"])
    return dataset.filter(lambda e: tf.reduce_all(e["targets"][: len(start)] == start))


def _add(name, behind):
    def read(split, shuffle_files=False, seed=None):
        return documents(split, name=name)

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(read, ["train", "validation"]),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            *behind,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={k: seqio.Feature(BYTES) for k in ("inputs", "targets")},
    )


if "cached_pairs" not in seqio.TaskRegistry.names():
    _add("cached_pairs", [])
    _add("cached_few", [])
    _add("cached_not", [])
    _add("cached_drops", [_only_kept])
    _add("cached_spans", [preprocessors.span_corruption])
    seqio.MixtureRegistry.add("cached_mixture", [("cached_pairs", 3.0), ("cached_few", 1.0)])


# Settings of a run on the mixture of a cache that `write_mixture` wrote, in packed rows.
OF_MIXTURE = {
    "MIXTURE_OR_TASK_NAME": "cached_mixture",
    "MIXTURE_OR_TASK_MODULE": "tests.data.cached_tasks",
    "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 64},
    "USE_CACHED_TASKS": True,
    "PACK": True,
}


def write_mixture(folder):
    """Caches the tasks of the mixture."""
    for name in ("cached_pairs", "cached_few"):
        write(folder, name, ("train", "validation"))


def forget():
    """Has SeqIO look for caches anew; it keeps the folder of each task that it found."""
    seqio.set_global_cache_dirs([])
    for name in COUNTS:
        seqio.TaskRegistry.get(name)._cache_dir = None


def write(folder, name, splits=("train",), num_shards=3):
    """Caches a task in a folder, by hand: Beam takes seconds a task."""
    task = seqio.TaskRegistry.get(name)
    target = folder / seqio.get_task_dir_from_name(name)
    target.mkdir(parents=True)
    for split in splits:
        source = task.source.get_dataset(split, shuffle=False)
        examples = list(task.preprocess_precache(source, seed=0).as_numpy_iterator())
        per_shard = math.ceil(len(examples) / num_shards)
        for shard in range(num_shards):
            path = f"{target}/{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"
            with tf.io.TFRecordWriter(path) as writer:
                for example in examples[shard * per_shard : (shard + 1) * per_shard]:
                    writer.write(seqio.dict_to_tfexample(example).SerializeToString())
        described = {
            name: {"shape": [None] if value.ndim else [], "dtype": tf.as_dtype(value.dtype).name}
            for name, value in examples[0].items()
            if hasattr(value, "ndim")
        } | {
            k: {"shape": [], "dtype": "string"} for k, v in examples[0].items() if type(v) is bytes
        }
        info = {"num_shards": num_shards, "features": described, "seqio_version": seqio.__version__}
        for kind, content in (("info", info), ("stats", {"examples": len(examples)})):
            (target / f"{kind}.{split}.json").write_text(json.dumps(content))
    (target / "COMPLETED").touch()
