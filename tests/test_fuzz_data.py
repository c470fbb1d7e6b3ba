"""A short form of the fuzzing of data; `python -m tests.fuzz_data` goes on for an hour."""

import pytest

from tests import fuzz_data

# A format of a user's own builds and searches pipelines for each damage.
SLOW = dict.fromkeys([name for name in fuzz_data.FORMATS if name.startswith("own")], 12)
SLOW |= {"C4": 20, "mC4": 20}


@pytest.mark.parametrize("name", fuzz_data.FORMATS)
def test_damaged_data_are_read_as_a_whole_or_refused_in_one_line(name, tmp_path):
    fuzz_data.fuzz(name, tmp_path, SLOW.get(name, 60))


def test_what_is_lost_without_a_word_is_found(tmp_path, monkeypatch):
    """The fuzzing itself can fail."""
    form = fuzz_data.FORMATS["JSON lines"]
    lossy = fuzz_data.Format(form.file, form.contents, lambda path: [], form.expected)
    monkeypatch.setitem(fuzz_data.FORMATS, "JSON lines", lossy)
    with pytest.raises(AssertionError):
        fuzz_data.fuzz("JSON lines", tmp_path, 60)


def test_the_command_tells_what_it_tried(capsys, monkeypatch):
    monkeypatch.setattr(fuzz_data, "fuzz", lambda *_: None)
    assert fuzz_data.main(["--minutes=0.001", "--formats=SQuAD,text", "--examples=5"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("SQuAD: ")
