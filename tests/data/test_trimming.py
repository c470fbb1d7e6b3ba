import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from switch_tf.data.trimming import longest, trim

NAMES = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")


@st.composite
def splits(draw):
    """Batches of rows that end in padding, or are padding."""
    widths = {"encoder": draw(st.integers(1, 12)), "decoder": draw(st.integers(1, 12))}
    tokens = st.integers(0, 2)
    return [
        {
            name: draw(
                arrays.arrays(np.int32, (2, widths[name.partition("_")[0]]), elements=tokens)
            )
            for name in NAMES
        }
        for _ in range(draw(st.integers(1, 3)))
    ]


@given(splits(), st.integers(1, 5))
def test_what_is_cut_is_padding_and_no_more_can_be(batches, multiple):
    columns = longest(batches, multiple)
    cut = [trim(batch, columns) for batch in batches]
    for batch, short in zip(batches, cut, strict=True):
        for name in NAMES:
            kept = short[name].shape[1]
            assert kept == columns[name] >= 1
            np.testing.assert_array_equal(batch[name][:, :kept], short[name])
            assert not batch[name][:, kept:].any()
            assert kept % multiple == 0 or kept == batch[name].shape[1]
    assert columns["decoder_input_tokens"] == columns["decoder_target_tokens"]
    for side in ("encoder", "decoder"):
        names = [name for name in NAMES if name.startswith(side)]
        least = columns[names[0]] - multiple
        if least > 0:
            # A multiple less would cut a token.
            assert any(batch[name][:, least:].any() for batch in batches for name in names)
