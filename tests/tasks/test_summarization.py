import json

import pytest

from switch_tf.tasks import summarization
from tests.tasks import official_files
from tests.tasks.official_files import CNN_URL, XSUM_SPLITS, set_macros, story, write_file

pytestmark = pytest.mark.usefixtures("official")


def test_a_story_without_highlights_is_left_out_and_counted(official, capsys):
    examples = summarization.cnn_dailymail_source().examples("train")
    assert [str(example["publisher"]) for example in examples] == ["cnn", "dm"]
    assert capsys.readouterr().out == (
        f"{official}/cnn_dailymail/all_train.txt: 1 records skipped (as TFDS does), the first: "
        f"{official / story(official_files.BARE_URL)}: the story has no article or no highlights\n"
    )


def test_an_address_that_is_listed_twice_is_read_once(tmp_path):
    text = "It rained.\n\n@highlight\n\nRain\n"
    write_file(tmp_path, story(CNN_URL), text)
    write_file(tmp_path, "dailymail/stories/x.story", text)
    write_file(tmp_path, "cnn_dailymail/all_train.txt", f"{CNN_URL}\n\n{CNN_URL}\n")
    set_macros(DATA_DIR=str(tmp_path))
    assert len(summarization.cnn_dailymail_source().examples("train")) == 1


def test_the_authors_articles_give_the_examples_of_those_that_their_scripts_make(tmp_path):
    expected = summarization.xsum_source().examples("test")
    write_file(tmp_path, "xsum/bbc-summary-data/1.summary", official_files.XSUM_OF_THE_AUTHORS)
    write_file(tmp_path, XSUM_SPLITS, json.dumps({"test": ["1"]}))
    set_macros(DATA_DIR=str(tmp_path))
    assert str(summarization.xsum_source().examples("test")) == str(expected)
