from switch_tf.metrics import figures


def test_figures_of_a_task_are_one_line_with_shares_in_percent():
    found = {"nlp": -1.23456, "tokens": 123456.0, "token_accuracy": 0.4567, "accuracy": 79.24}
    line = figures.line("a", found | {"truncated_inputs": 0.0, "decoded": 9.0})
    assert line == (
        "a  nlp -1.235  tokens 123,456  token_accuracy 45.7%  accuracy 79.24  truncated_inputs 0%  "
        "decoded 9"
    )
