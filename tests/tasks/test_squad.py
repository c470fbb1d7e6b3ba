import json

import pytest
import tensorflow_datasets as tfds

from tasks import squad
from tests.tasks.official_files import set_macros, write_file


@pytest.mark.usefixtures("official")
def test_answers_to_a_question_that_comes_again_join_the_first(tmp_path):
    first, second = (
        {"id": "1", "question": "q", "answers": [{"text": text, "answer_start": 0}]}
        for text in ("a", "b")
    )
    data = {"data": [{"paragraphs": [{"context": "a b", "qas": [first, second]}]}]}
    write_file(tmp_path, "squad/train-v1.1.json", json.dumps(data))
    set_macros(DATA_DIR=str(tmp_path))
    source = squad.source()
    builder = tfds.builder(source.tfds_name)
    made = builder._generate_examples(source.split_files("train").path)
    expected = [builder.info.features.encode_example(example) for _, example in made]
    assert str(source.examples("train")) == str(expected)
    assert [str(answer) for answer in expected[0]["answers"]["text"]] == ["a", "b"]
