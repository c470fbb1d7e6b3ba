"""The arithmetic of span corruption: the lengths that a piece of text becomes, and their limits.

T5 masks spans of each piece of text: in the inputs a sentinel replaces each span, and in the
targets it precedes the span's tokens (Raffel et al., 2020, Sec. 3.1.4). T5 itself does not check
that there are as many sentinels as spans, or that there is text between spans. Needs no
TensorFlow.
"""

import bisect
import dataclasses
import functools
import inspect
import sys
from collections.abc import Mapping

import gin
import numpy as np

from switch_tf import rules
from switch_tf.data.batch_shape import FEATURE_LENGTHS
from switch_tf.errors import UserError
from switch_tf.rules import NoiseDensity, SpanLength

# T5's defaults: 15% of the tokens, in spans of three on average (Raffel et al., 2020, Sec. 3.3).
NOISE_DENSITY = 0.15
MEAN_SPAN_LENGTH = 3.0
_T5 = "t5.data.preprocessors"
_ROLL = "random_spans_noise_mask.random_roll"
# Longer than any piece.
_MANY = 1 << 40


@dataclasses.dataclass(frozen=True)
class Spans:
    """The masking of pieces of text.

    Args:
      noise_density: share of the tokens that are masked. A higher one gives more targets per input
        but leaves less context. T5 found little difference from 10% to 25%, and 50% worse: keep
        0.15.
      mean_length: mean length of a span, in tokens. Longer spans need fewer sentinels and shorter
        targets, so steps are faster. T5 found little difference up to 5, and 10 slightly worse:
        keep 3.
      random_roll: whether to rotate each mask by a random offset. A span may then be cut in two, at
        both ends of the piece, and need one more sentinel. T5 leaves it off.
      named: the name of the first two in errors, where it replaces the braces.

    Raises:
      UserError: a value is out of range.
    """

    noise_density: float = NOISE_DENSITY
    mean_length: float = MEAN_SPAN_LENGTH
    random_roll: bool = False
    named: str = "span_corruption.{}"

    def __post_init__(self):
        """Checks the values."""
        rules.check(self._density, self.noise_density, NoiseDensity)
        rules.check(self._span_length, self.mean_length, SpanLength)
        rules.check(_ROLL, self.random_roll, bool)

    @property
    def _density(self) -> str:
        return self.named.format("noise_density")

    @property
    def _span_length(self) -> str:
        return self.named.format("mean_noise_span_length")

    def of(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(masked tokens, other tokens, spans) for pieces of the given lengths, each at least 2.

        Rounds in float32, as T5's mask does. Spans are counted before random_roll cuts one in two.
        """
        masked = np.rint(tokens.astype(np.float32) * np.float32(self.noise_density))
        masked = np.clip(masked.astype(np.int64), 1, tokens - 1)
        spans = np.rint(masked.astype(np.float32) / np.float32(self.mean_length))
        return masked, tokens - masked, np.maximum(spans.astype(np.int64), 1)

    def t5_piece(self, inputs_length: int) -> int:
        """The length of the pieces into which T5 cuts text, as in its `random_spans_helper`.

        Args:
          inputs_length: length of the resulting inputs, including the end of sequence.
        """

        def inputs_and_targets(tokens):
            masked = round(tokens * self.noise_density)
            spans = round(masked / self.mean_length)
            return tokens - masked + spans + 1, masked + spans + 1

        longer = range(inputs_length, _MANY)
        fitting = bisect.bisect(longer, inputs_length, key=lambda n: inputs_and_targets(n)[0])
        tokens = inputs_length - 1 + fitting
        inputs, targets = inputs_and_targets(tokens)
        return tokens - 1 if self.noise_density == 0.5 and targets > inputs else tokens

    def piece(self, lengths: Mapping[str, int]) -> int:
        """The length of the pieces into which text is cut: T5's, or shorter if those would not fit.

        T5 would truncate pieces that do not fit, because it miscounts: in short pieces it masks
        a token where it counts none, and a rolled mask takes one more sentinel than it counts.
        """

        def is_too_long(tokens):
            inputs, targets = self.lengths(tokens)
            return inputs > lengths["inputs"] or self.random_roll and targets > lengths["targets"]

        candidates = range(2, self.t5_piece(lengths["inputs"]) + 1)
        return 1 + bisect.bisect(candidates, False, key=is_too_long)

    def sentinels(self, tokens: int) -> int:
        """The most sentinels needed by a piece of this many tokens, at least 2."""
        return int(self.of(np.array(tokens))[2]) + self.random_roll

    def lengths(self, tokens: int) -> tuple[int, int]:
        """The longest inputs and targets, with end of sequence, of a piece of this many tokens."""
        masked, others, _ = map(int, self.of(np.array(tokens)))
        more = self.sentinels(tokens) + 1
        return others + more, masked + more

    def check(self, lengths: Mapping[str, int], sentinels: int) -> int:
        """Checks that every piece can be masked and that the result fits.

        Args:
          lengths: lengths of "inputs" and "targets" in tokens, including the end of sequence.
          sentinels: number of sentinels in the vocabulary.

        Returns:
          The length of the pieces in tokens; the last piece of a text may be shorter.

        Raises:
          UserError: a piece cannot be masked or does not fit; the message gives the numbers and the
            fix.
        """
        if self.random_roll:
            dataclasses.replace(self, random_roll=False).check(lengths, sentinels)
        longest = self.piece(lengths)
        self._check_crowded(min(longest, sum(lengths.values())))
        if longest < 2:
            least = 3 + self.random_roll
            raise UserError(
                f"{FEATURE_LENGTHS}={dict(lengths)} is too short: span corruption masks part of at "
                f"least two tokens: give at least {least} inputs and {least} targets"
            )
        self._check_targets(lengths, longest)
        self._check_sentinels(lengths, longest, sentinels)
        return longest

    def check_t5(self, lengths: Mapping[str, int], sentinels: int, reserved: int = 0) -> None:
        """Like `check`, but for T5's own pieces, whose inputs may not fit.

        Args:
          lengths: see `check`.
          sentinels: see `check`.
          reserved: number of input tokens that T5 leaves free.
        """
        inputs = lengths["inputs"]
        longest = max(self.t5_piece(inputs - reserved), 2)
        self._check_crowded(min(longest, sum(lengths.values())))
        needed = self.lengths(longest)[0]
        if needed > inputs:
            raise UserError(
                f"{FEATURE_LENGTHS}['inputs']={inputs} is too short for the {needed} inputs that "
                f"t5's span_corruption makes of {longest} tokens: use that of "
                "switch_tf.tasks.parts.preprocessors, which cuts pieces that fit, or another length"
            )
        self._check_targets(lengths, longest)
        self._check_sentinels(lengths, longest, sentinels)

    def _check_crowded(self, longest: int) -> None:
        """Checks that pieces up to this length have no empty spans, and text between spans."""
        tokens = np.arange(2, longest + 1)
        masked, others, spans = self.of(tokens)
        crowded = spans > np.minimum(masked, others)
        if crowded.any():
            first = crowded.argmax()
            raise UserError(
                f"{self._density}={self.noise_density}, {self._span_length}={self.mean_length}: in "
                f"a piece of {tokens[first]} tokens, {masked[first]} would be masked in "
                f"{spans[first]} spans, leaving {others[first]} to separate them: lower the "
                "density, or lengthen the spans"
            )

    def _check_targets(self, lengths: Mapping[str, int], longest: int) -> None:
        needed = self.lengths(longest)[1]
        if lengths["targets"] < needed:
            raise UserError(
                f"{FEATURE_LENGTHS}['targets']={lengths['targets']} is too short: span corruption "
                f"of {lengths['inputs']} inputs needs {needed} targets"
            )

    def _check_sentinels(self, lengths: Mapping[str, int], longest: int, sentinels: int) -> None:
        needed = self.sentinels(longest)
        if needed <= sentinels:
            return

        def needed_for(inputs):
            return self.sentinels(max(self.piece({**lengths, "inputs": inputs}), 2))

        shorter = range(3 + self.random_roll, lengths["inputs"])
        fitting = bisect.bisect(shorter, sentinels, key=needed_for)
        at_most = f"set it to at most {shorter[fitting - 1]}, " if fitting else ""
        raise UserError(
            f"{FEATURE_LENGTHS}['inputs']={lengths['inputs']}: the spans of {longest} tokens need "
            f"{needed} sentinels, but the vocabulary has {sentinels}, and ordinary pieces would be "
            f"used for the rest: {at_most}raise {self._span_length}, or use a vocabulary with "
            f"{needed}"
        )


def random_roll() -> bool:
    """The value of T5's `random_spans_noise_mask.random_roll` in gin; False if unset."""
    if _T5 not in sys.modules:
        return False
    name, _, parameter = _ROLL.partition(".")
    return gin.get_bindings(name).get(parameter, False)


def check_t5_steps(task, lengths: Mapping[str, int]) -> None:
    """Checks the values of T5's own span corruption, if it is a step of a task.

    Args:
      task: a `seqio.Task`.
      lengths: feature -> length in tokens.

    Raises:
      UserError: see `Spans` and `Spans.check_t5`.
    """
    if _T5 not in sys.modules:
        return
    for step in task.preprocessors:
        function, given = step, {}
        while isinstance(function, functools.partial):
            function, given = function.func, function.keywords | given
        if inspect.unwrap(function) is not sys.modules[_T5].span_corruption:
            continue
        numbers = {
            "noise_density": given.get("noise_density", NOISE_DENSITY),
            "mean_length": given.get("mean_noise_span_length", MEAN_SPAN_LENGTH),
        }
        spans = Spans(**numbers, random_roll=random_roll(), named=f"{{}} of task '{task.name}'")
        sentinels = num_sentinels(task.output_features["targets"].vocabulary)
        spans.check_t5(lengths, sentinels, given.get("reserved_for_packing") or 0)


def num_sentinels(vocabulary) -> int:
    """Number of sentinels at the end of a vocabulary: ids added by SeqIO, or model pieces."""
    return vocabulary.extra_ids or _sentinel_pieces(vocabulary)


def _sentinel_pieces(vocabulary) -> int:
    """Number of sentinel pieces at the end of a vocabulary, the first sentinel being the last."""
    tokenizer = getattr(vocabulary, "tokenizer", None)
    count, size = 0, vocabulary.vocab_size
    while tokenizer is not None and count < size:
        piece = tokenizer.IdToPiece(size - 1 - count)
        if piece.removeprefix("\u2581") != f"<extra_id_{count}>":
            break
        count += 1
    return count


def holds_sentinels(vocabulary) -> bool:
    """Whether the first sentinel is a piece of a vocabulary's model, wherever it stands."""
    tokenizer = getattr(vocabulary, "tokenizer", None)
    if tokenizer is None:
        return False
    unknown = tokenizer.unk_id()
    pieces = ("<extra_id_0>", "\u2581<extra_id_0>")
    return any(tokenizer.PieceToId(piece) != unknown for piece in pieces)
