"""SeqIO dataset -> batches of the encoder-decoder's features, all int32 [batch, length].

Order and content depend on the seed alone (and on `tf.random.set_seed`, which is never called here,
since the model's randomness is stateless). `tf.train.Checkpoint` saves iterators exactly.
TensorFlow is imported inside functions, so that settings can be checked before it starts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection

from switch_tf import rules
from switch_tf.data import reading, shares, spans
from switch_tf.data.answers import right_answers
from switch_tf.data.autograph import without_autograph
from switch_tf.data.batch_shape import FEATURE_LENGTHS, TASK_FEATURES, check_shares, host_rows
from switch_tf.data.reading import TaskSplit, user_errors
from switch_tf.data.task_data import TaskData
from switch_tf.errors import UserError

# Every evaluation of every run sees the same examples, with the same noise, in the same order.
EVAL_SEED = 42
# Enough to break up files ordered by domain; a buffer of this many examples takes tens of MB.
EVAL_SHUFFLE_EXAMPLES = 16_384

# Printed by a run whose data are not cached.
_UNCACHED = "data: not cached, so in SeqIO's own order"

# Names of the steps in t5.data.preprocessors that write sentinels.
_SENTINEL_STEPS = re.compile(r"span_corruption|unsupervised|denois|fill_in_the_blank_sized")
_NUM_SENTINELS = 100


def check_split(provider, split: str, setting: str = "TaskData.split") -> None:
    """Checks that a task or mixture has the split.

    Args:
      provider: the `seqio.Task` or `seqio.Mixture`.
      split: the split.
      setting: what gives it, for errors.

    Raises:
      UserError: it does not; the message lists the splits there are.
    """
    splits = sorted(provider.splits)
    if split not in splits:
        there = ", ".join(splits)
        raise UserError(f"{setting}='{split}': '{provider.name}' has no such split; it has {there}")


def prepare(data: TaskData, vocab_size: int, checkpoint: str | None = None) -> None:
    """Prepares the data of a task or mixture, and checks it against the model.

    Args:
      data: the data to read; if it is cached, its sources need not exist.
      vocab_size: the model's vocabulary size.
      checkpoint: the setting that gives the checkpoint of which the model is, if there is one.

    Raises:
      UserError: there is no such task or mixture; see also `registry.prepare`,
        `check_vocabulary` and `provenance.check`.
    """
    from switch_tf.data import registry

    provider = data.provider()
    if data.use_cached:
        from switch_tf.data import ordered

        ordered.use_cache_dir()
    registry.prepare(provider, data.use_cached)
    check_vocabulary(provider, vocab_size, checkpoint)
    if data.use_cached:
        from switch_tf.data import provenance

        provenance.check(provider)


def check_vocabulary(provider, vocab_size: int, checkpoint: str | None = None) -> None:
    """Checks the vocabularies of a task or mixture against the model.

    Token ids must be < `vocab_size`. As the model and greedy decoding assume, padding is 0 and the
    end of a sequence 1; the unknown token must have an id of its own. A task that corrupts spans
    needs 100 sentinels at the end of the vocabulary, added by SeqIO or pieces of the model.

    Args:
      provider, vocab_size, checkpoint: as for `prepare`.

    Raises:
      UserError: one does not fit; the message names the task, its vocabulary's size and the
        model's.
    """
    import seqio

    for task in seqio.get_subtasks(provider):
        steps = " ".join(seqio.utils.function_name(step) for step in task.preprocessors)
        for name in TASK_FEATURES:
            if name not in task.output_features:
                raise UserError(f"task '{task.name}' has no feature '{name}'")
            vocabulary = task.output_features[name].vocabulary
            what = f"vocabulary of '{name}' of task '{task.name}'"
            with user_errors(what):
                try:
                    size = vocabulary.vocab_size
                except RuntimeError as error:
                    raise UserError(
                        f"{what} cannot be loaded ({str(error).splitlines()[-1]}); if its model "
                        "contains the sentinels, give it extra_ids=0"
                    ) from error
                pad, eos, unk = vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id
            if size > vocab_size:
                mend = f"set it to at least {size}"
                if checkpoint is not None:
                    mend = (
                        "set VOCABULARY_PATH to the one that it was trained with, or give another "
                        f"task or {checkpoint}"
                    )
                raise UserError(
                    f"{what} has {size} tokens, but the model's VOCAB_SIZE is {vocab_size}: {mend}"
                )
            if (pad, eos) != (0, 1):
                raise UserError(f"{what} has pad {pad} and eos {eos}; train it with pad 0, eos 1")
            if unk is not None and (unk in (pad, eos) or not 0 <= unk < size):
                raise UserError(
                    f"{what} has unknown {unk}, which must be one of its {size} pieces other than "
                    "pad and eos; train it with unk 2"
                )
            if _SENTINEL_STEPS.search(steps):
                _check_sentinels(what, vocabulary)


def _check_sentinels(what: str, vocabulary) -> None:
    sentinels = spans.num_sentinels(vocabulary)
    if sentinels >= _NUM_SENTINELS:
        return
    mend = f"give it extra_ids={_NUM_SENTINELS}"
    if spans.holds_sentinels(vocabulary):
        mend = (
            "its model holds sentinels, of which span corruption needs "
            f"<extra_id_{_NUM_SENTINELS - 1}> to <extra_id_0> as the last pieces: give a model "
            f"with these, or without any, to which {_NUM_SENTINELS} are added"
        )
    raise UserError(
        f"{what} has {sentinels} sentinels at its end, but span corruption needs "
        f"{_NUM_SENTINELS}: {mend}"
    )


def _options():
    import tensorflow as tf

    options = tf.data.Options()
    # Also if a task's own reader prefers speed over order.
    options.deterministic = True
    # Symbolic checkpoints are smaller for packed data, but make reading 15 to 30 times slower and
    # do not support cached datasets.
    options.experimental_symbolic_checkpoint = False
    # A user's Python function in the pipeline counts as stateful; its run can be saved all the
    # same, and goes on bit for bit if it keeps nothing from one example to the next.
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    # SeqIO maps each example a dozen times; fusing the maps saves a third of the time.
    options.experimental_optimization.map_fusion = True
    return options


def _examples(
    data: TaskData,
    *,
    shuffle: bool,
    seed: int,
    num_epochs: int | None,
    share: shares.Share | None = None,
):
    """Unbatched examples, converted to model features; of one share, if it is given."""
    import seqio

    provider = data.provider()
    rules.check(FEATURE_LENGTHS, data.task_feature_lengths, rules.Lengths)
    check_split(provider, data.split)
    for task in seqio.get_subtasks(provider):
        spans.check_t5_steps(task, data.task_feature_lengths)

    def build():
        dataset = provider.get_dataset(
            sequence_length=data.task_feature_lengths,
            split=data.split,
            use_cached=data.use_cached,
            shuffle=shuffle,
            seed=seed,
            num_epochs=num_epochs,
            # The whole cache would be written into each checkpoint.
            try_in_mem_cache=False,
        )
        if share is not None:
            shares.check_steps(dataset, TaskSplit.of(data), share.number)
        converter = seqio.EncDecFeatureConverter(pack=data.pack)
        return converter(right_answers(dataset), task_feature_lengths=data.task_feature_lengths)

    with _errors_of(data), shares.reading(share, seqio.get_subtasks(provider)):
        return without_autograph(build)


def _errors_of(data: TaskData):
    return user_errors(TaskSplit.of(data))


def _check_not_empty(examples, data: TaskData) -> None:
    """Reads the first of `examples` (of one epoch), so that an empty source fails at once.

    Raises:
      UserError: there is no example, or the reader reports an error in the user's files.
    """
    with _errors_of(data):
        if next(iter(examples), None) is None:
            from switch_tf.data import availability

            what = TaskSplit.of(data)
            read = ", ".join(availability.read_by(what.tasks(), data.split))
            raise UserError(
                f"{what}, has no examples: its source ({read}) is empty or its preprocessors drop "
                "them all"
            )


def train_batches(data: TaskData, wanted: Collection[int] | None = None):
    """Endless shuffled batches.

    Those of cached data are `ordered.OrderedBatches`, those in shares `shares.SharedBatches`, and
    others a `train_dataset`.

    Args:
      data: the data to read.
      wanted: the rows of each batch that this host needs; None for all. Others may be zeros.

    Raises:
      UserError: see either of them.
    """
    check_shares(data.batch_size, data.shares, data.use_cached)
    if data.use_cached:
        from switch_tf.data import ordered

        ordered.use_cache_dir()
        return ordered.OrderedBatches(data, wanted)
    if data.shares == 1:
        return train_dataset(data)
    _check_examples(data)

    def of_share(index: int, rows: int):
        return _endless(data, rows, shares.Share(index, data.shares, data.seed))

    what = TaskSplit.of(data)
    return shares.SharedBatches(what, data.batch_size, data.shares, of_share, wanted)


def describe_order(batches) -> str:
    """A line that describes the order of `train_batches`."""
    return batches.describe() if hasattr(batches, "describe") else _UNCACHED


def train_dataset(data: TaskData):
    """Endless shuffled batches of a task or mixture, reproducible from the seed.

    The order is SeqIO's own; `switch_tf.data.ordered` has a better one for cached data.

    Args:
      data: the data to read.

    Returns:
      A `tf.data.Dataset` of dicts of int32 [batch, length]: `encoder_input_tokens`,
      `decoder_target_tokens`, `decoder_input_tokens`, `decoder_loss_weights` and, if packed,
      `{encoder,decoder}_{segment_ids,positions}`. `tf.train.Checkpoint` saves its iterator with
      the buffers (some MB), and a new iterator restored from it continues with the next batch.

    Raises:
      UserError: the name or split is unknown, lengths are invalid, or there are no examples.
    """
    _check_examples(data)
    return _endless(data, data.batch_size)


def _check_examples(data: TaskData) -> None:
    """Checks that there are examples to train on."""
    import seqio

    from switch_tf.data import registry

    provider = data.provider()
    if isinstance(provider, seqio.Mixture):
        registry.check_rates(provider, tasks(data))
    # One epoch, because a repeated dataset whose examples are all filtered out never ends.
    _check_not_empty(_examples(data, shuffle=False, seed=data.seed, num_epochs=1), data)


def _endless(data: TaskData, rows: int, share: shares.Share | None = None):
    """Endless shuffled batches of so many rows; of one share, if it is given."""
    import tensorflow as tf

    seed = data.seed if share is None else share.own_seed
    dataset = _examples(data, shuffle=True, seed=seed, num_epochs=None, share=share)
    dataset = dataset.batch(rows, drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())


def eval_dataset(data: TaskData, num_batches: int | None = None, host: int = 0, num_hosts: int = 1):
    """Each example of a task once, in a fixed order with fixed noise.

    A fixed seed shuffles the examples: in batches ordered by domain, more tokens overflow their
    experts, which would overstate the loss. The last batch is filled up with rows of padding, whose
    loss weights are 0.

    Args:
      data: a task, whose seed is ignored; for mixtures, use `eval_datasets`.
      num_batches: maximum number of batches, kept in memory after the first pass; None reads all
        batches anew each time. Fewer are faster but give a noisier loss; report final results with
        None.
      host, num_hosts: selects the `host`-th of `num_hosts` equal parts of each batch. All hosts get
        the same number of batches, whatever the number of examples.

    Returns:
      A `tf.data.Dataset` of dicts as from `train_dataset`.

    Raises:
      UserError: `data` is a mixture, the name or split is unknown, lengths are invalid, there are
        no examples, or the batch size is not divisible by the number of hosts.
    """
    import seqio
    import tensorflow as tf

    if isinstance(data.provider(), seqio.Mixture):
        name = data.mixture_or_task_name
        raise UserError(f"'{name}' is a mixture: evaluate each of its tasks by itself")
    rows = host_rows(data.batch_size, host, num_hosts)
    if data.use_cached:
        from switch_tf.data.task_cache import TaskCache

        # SeqIO's reader would not notice that examples are missing.
        TaskCache(data.provider(), data.split)
    dataset = _examples(data, shuffle=False, seed=EVAL_SEED, num_epochs=1)
    _check_not_empty(dataset, data)
    # The same order in each pass, or a limited number of batches would hold other examples each
    # time.
    dataset = dataset.shuffle(EVAL_SHUFFLE_EXAMPLES, EVAL_SEED, reshuffle_each_iteration=False)

    def fill(batch):
        missing = data.batch_size - tf.shape(batch["decoder_target_tokens"])[0]
        full = {k: tf.pad(v, [[0, missing], [0, 0]]) for k, v in batch.items()}
        own = {k: v[rows.start : rows.stop] for k, v in full.items()}
        return {k: tf.ensure_shape(v, [len(rows), None]) for k, v in own.items()}

    dataset = dataset.batch(data.batch_size).map(fill)
    if num_batches is not None:
        dataset = dataset.take(num_batches).cache()
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_options())


def eval_datasets(data: TaskData, *args, without: Collection[str] = (), **kwargs) -> dict:
    """Task -> `eval_dataset`, for a task or for each task of a mixture that has the split.

    Args:
      data: a task or mixture.
      without: names of tasks to leave out.
      *args, **kwargs: further arguments of `eval_dataset`.

    Raises:
      UserError: see `eval_dataset`; or no task of the mixture has the split.
    """
    names = [task.name for task in tasks(data) if task.name not in without]
    each = {name: dataclasses.replace(data, mixture_or_task_name=name) for name in names}
    return {name: eval_dataset(of_task, *args, **kwargs) for name, of_task in each.items()}


def check_records(data: TaskData) -> None:
    """Calls `reading.check_records` for the tasks of data, unless their caches are read.

    Raises:
      UserError: see there.
    """
    if not data.use_cached:
        reading.check_records(tasks(data), data.split)


def tasks(data: TaskData) -> list:
    """The `seqio.Task`s of a task or mixture that have the split.

    Raises:
      UserError: there is none, or one is not cached that should be.
    """
    import seqio

    provider = data.provider()
    if data.use_cached:
        from switch_tf.data import ordered

        return ordered.cached_tasks(provider, data.split)
    check_split(provider, data.split)
    return [task for task in seqio.get_subtasks(provider) if data.split in task.splits]
