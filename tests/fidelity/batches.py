"""Batches of random tokens, one example a row or several packed into a row."""

import numpy as np

from tests.helpers import features_of

BATCH, ENCODER_LENGTH, DECODER_LENGTH = 4, 24, 16


def _tokens(generator, vocab, shape):
    """Some tokens far more often than others, as in text: experts then overflow."""
    return 1 + (generator.random(shape) ** 3 * (vocab - 1)).astype(np.int32)


def unpacked(vocab, seed=0, filler=True):
    """Rows of unlike lengths; the last is the filler of an incomplete batch: padding alone."""
    generator = np.random.default_rng([1, seed])
    encoder = _tokens(generator, vocab, (BATCH, ENCODER_LENGTH))
    target = _tokens(generator, vocab, (BATCH, DECODER_LENGTH))
    for row in range(BATCH):
        encoder[row, generator.integers(ENCODER_LENGTH // 2, ENCODER_LENGTH + 1) :] = 0
        target[row, generator.integers(DECODER_LENGTH // 2, DECODER_LENGTH + 1) :] = 0
    if filler:
        encoder[-1] = target[-1] = 0
    return features_of(encoder, target)


def packed(vocab, seed=0):
    """Two or three examples a row, numbered from 1, then padding, 0."""
    generator = np.random.default_rng([2, seed])
    shapes = {"encoder": (BATCH, ENCODER_LENGTH), "decoder": (BATCH, DECODER_LENGTH)}
    segments = {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
    for row in range(BATCH):
        examples = 2 + row % 2
        for name, segment_BL in segments.items():
            length = shapes[name][1] // examples
            start = 0
            for example in range(examples):
                end = start + generator.integers(length // 2, length + 1)
                segment_BL[row, start:end] = example + 1
                start = end
    encoder = _tokens(generator, vocab, shapes["encoder"]) * (segments["encoder"] > 0)
    target = _tokens(generator, vocab, shapes["decoder"]) * (segments["decoder"] > 0)
    features = features_of(encoder, target)
    segment_BL = segments["decoder"]
    starts_BL = segment_BL != np.pad(segment_BL[:, :-1], ((0, 0), (1, 0)))
    # Each example's decoder starts from padding, not from the last token of the one before.
    features["decoder_input_tokens"] *= (~starts_BL & (segment_BL > 0)).astype(np.int32)
    return features | {f"{name}_segment_ids": s for name, s in segments.items()}


def apart(features):
    """A packed batch's examples, in order, one a row, and where the targets were: (row, start)."""
    rows, places = [], []
    for row, examples in enumerate(features["decoder_segment_ids"].max(axis=1)):
        for example in range(1, examples + 1):
            found = {}
            for name, tokens in features.items():
                if name.endswith("_tokens"):
                    side = name.partition("_")[0]
                    here_L = features[f"{side}_segment_ids"][row] == example
                    kept = tokens[row, here_L]
                    found[name] = np.pad(kept, (0, tokens.shape[1] - len(kept)))
            rows.append(found)
            places.append((row, int(np.argmax(features["decoder_segment_ids"][row] == example))))
    return {name: np.stack([r[name] for r in rows]) for name in rows[0]}, places
