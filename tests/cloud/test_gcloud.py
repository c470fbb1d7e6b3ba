import doctest
import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf.cloud import gcloud
from switch_tf.cloud.gcloud import Cause

# Arguments cannot hold a NUL; surrogates cannot be encoded.
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))
SHELL = st.text(st.sampled_from("ab '\"\\$`!*?(){}[]<>|&;#~=\n\t%-"))
WORD = TEXT | SHELL | st.builds("--gin.{}={}".format, st.sampled_from("AB"), SHELL)
WORDS = st.lists(WORD.filter(lambda word: word.isprintable() or word), min_size=1, max_size=6)


def split(command):
    """The words into which a shell splits a command."""
    script = f"printf '%s\\0' {command}"
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    return told.decode("utf-8", "surrogateescape").split("\0")[:-1]


@settings(max_examples=100, deadline=None)
@given(WORDS)
def test_a_shell_splits_a_joined_command_into_its_words(words):
    assert split(gcloud.join(words)) == words


@settings(max_examples=100, deadline=None)
@given(WORDS, st.integers(0, 200))
def test_what_is_shown_can_be_pasted_into_a_shell(words, length):
    """Also where it is wrapped, in which a worker's shell finds the same words."""
    inner = [*words, "x" * length]
    *outer, command = split(gcloud.shown(["gcloud", "ssh", f"--command={gcloud.join(inner)}"]))
    assert outer == ["gcloud", "ssh"]
    assert split(command.removeprefix("--command=")) == inner


def test_the_example_of_quote():
    assert doctest.testmod(gcloud).failed == 0


def test_a_long_command_is_shown_on_several_lines():
    run = ["switch-tf", "train", *(f"--gin.NUMBER_{i}='text of a setting'" for i in range(4))]
    text = gcloud.shown(["gcloud", "ssh", f"--command={gcloud.join(run)}"])
    assert max(map(len, text.splitlines())) <= 100 and len(text.splitlines()) == 4
    assert split(shlex.split("x " + text.replace("\\\n", ""))[-1].partition("=")[2]) == run


# Texts as Google's services give them.
@pytest.mark.parametrize(
    "text, cause",
    [
        (
            'There is no more capacity in the zone "europe-west4-a"; you can try in another zone '
            "where Cloud TPU Nodes are offered [EID: 0xba393c906974e61]",
            Cause.CAPACITY,
        ),
        ("Insufficient reserved capacity. Contact customer support", Cause.CAPACITY),
        (
            "Quota limit 'TPUV6EPreemptiblePerProjectPerRegionForTPUAPI' has been exceeded. "
            "Limit: 0 in region us-east5.",
            Cause.QUOTA,
        ),
        (
            "{'code': 8, 'message': 'Quota exhausted. Limit 20800 in region us-central2'}",
            Cause.QUOTA,
        ),
        ("Resource 'projects/p/locations/z/queuedResources/a' was not found", Cause.MISSING),
        ("ALREADY_EXISTS: Resource already exists", Cause.EXISTS),
        (
            "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'locations/us-central2-b' "
            "(or it may not exist).",
            Cause.REFUSED,
        ),
        ("You do not currently have an active account selected.", Cause.LOGGED_OUT),
        (
            "problem refreshing auth tokens: ('invalid_grant: Bad Request'",
            Cause.LOGGED_OUT,
        ),
        ("problem refreshing auth tokens: Max retries exceeded", Cause.OTHER),
        ("INVALID_ARGUMENT: accelerator type is invalid", Cause.REFUSED),
        ("gcloud crashed (TransportError): HTTPSConnectionPool", Cause.OTHER),
        ("", Cause.OTHER),
        ("WARNING: this might result in\nunexpected quota issues.\n", Cause.OTHER),
        ("WARNING: a quota project\n\nERROR: gcloud crashed (SSLError): timeout\n", Cause.OTHER),
        ("ERROR: (gcloud.x) RESOURCE_EXHAUSTED:\n- reason: quota\nWARNING: a\n", Cause.QUOTA),
    ],
)
def test_what_an_error_means(text, cause):
    assert Cause.of(text) is cause


def test_an_error_is_one_line():
    text = "WARNING: old\nERROR: (gcloud.x) No such thing.\n- here\n- there\n"
    assert str(gcloud.Failure("making it", text, 1)) == "making it: (gcloud.x) No such thing."
    assert str(gcloud.Failure("making it", "a\nb\n", 1)) == "making it: b"
    assert str(gcloud.Failure("making it", "", 1)) == "making it: it said nothing"
