import pytest

from switch_tf.errors import UserError
from switch_tf.tasks.vocabulary import vocabulary_path


def test_a_file_is_found_by_its_path_and_an_address_is_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "v.model").write_bytes(b"")
    assert vocabulary_path.check("~/v.model") == f"{tmp_path}/v.model"
    assert vocabulary_path.check(vocabulary_path.T5) == vocabulary_path.T5


@pytest.mark.parametrize(
    "path, message",
    [
        (5, "VOCABULARY_PATH=5: give a path in quotes"),
        (
            "no.model",
            "VOCABULARY_PATH='no.model': no such file; set VOCABULARY_PATH to a copy of T5's, "
            "such as spiece.model of huggingface.co/google-t5/t5-base, to vocabulary.model in the "
            "MODEL_DIR of a run, or to your own, trained on the text of a task with switch-tf "
            "tasks NAME --train_vocabulary=8000 and the --gin flags of the run",
        ),
    ],
)
def test_what_is_no_vocabulary_is_one_line_that_says_how_to_get_one(path, message):
    with pytest.raises(UserError) as raised:
        vocabulary_path.check(path)
    assert str(raised.value) == message
