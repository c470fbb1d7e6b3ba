"""The notebook in docs/ runs, as Jupyter runs it, and is kept with what it shows."""

import json
import re

import pytest

from switch_tf.tasks.docstrings import corpus, parse
from switch_tf.tasks.vocabulary import t5
from tests import notebook
from tests.tasks.conftest import make_documents

CELLS = notebook.read().cells
CODE = [cell for cell in CELLS if cell.cell_type == "code"]
TEXT = "\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
# What the cell of settings has instead.
SMALL = {"MODEL": "small.gin", "MESH_SHAPE": "batch:1", "TRAIN_STEPS": 4, "FINETUNE_STEPS": 2}
SMALL_MODEL = """
include 'models/switch_tiny.gin'
TransformerEncoderDecoder.num_layers = 1
TransformerEncoderDecoder.d_model = 16
Evaluation.dropless = False
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What the notebook writes, at a small size."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "small.gin").write_text(SMALL_MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        fill_cache(patch)
        notebook.execute(small_notebook(), folder)
    return folder / "runs" / "first_hour"


def small_notebook():
    """The notebook with `SMALL` settings."""
    small = notebook.read()
    (settings,) = [c for c in small.cells if "parameters" in c.metadata.get("tags", ())]
    for name, value in SMALL.items():
        line = re.compile(f"^{name} = .*", re.MULTILINE)
        settings.source, found = line.subn(f"{name} = {value!r}", settings.source)
        assert found == 1, name
    return small


def fill_cache(patch):
    """A small corpus and vocabulary: in a kernel, nothing can be put in the parser's place."""
    patch.setattr(parse, "find_libraries", dict)
    patch.setattr(parse, "parse_libraries", lambda *_, **__: make_documents())
    folder, size = corpus.prepare(), corpus.settings()[1]
    texts = (document.text for document in corpus.documents("train"))
    t5.train(texts, folder / f"vocabulary_{size}.model", 150)
    corpus._read.cache_clear()


def test_it_trains_evaluates_and_predicts(runs):
    lines = (runs / "pretrained" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["kind"] for line in lines} >= {"train", "evaluation"}
    (evaluation,) = runs.glob("pretrained/evaluations/*_4.json")
    assert "nlp_dropless" in json.loads(evaluation.read_text())["pydocs_span_corruption"]
    (predictions,) = runs.glob("finetuned/predictions/validation_2/pydocs_library.jsonl")
    assert {"inputs", "targets", "prediction"} <= json.loads(predictions.open().readline()).keys()


def test_it_is_kept_as_it_was_executed_from_top_to_bottom():
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))


def test_its_cells_show_what_they_print_and_draw():
    shown = {"print(": "stream", "%%bash": "stream", "plt.show()": "display_data"}
    for cell in CODE:
        wanted = {kind for code, kind in shown.items() if code in cell.source}
        assert {output.output_type for output in cell.outputs} == wanted, cell.source
        for output in cell.outputs:
            assert output.get("name", "stdout") == "stdout"
            assert output.output_type == "stream" or "image/png" in output.data


def test_it_shows_no_path_of_a_machine_and_no_control_characters():
    text = "".join(o.text for cell in CODE for o in cell.outputs if o.output_type == "stream")
    assert text
    assert not re.findall(r"(?:^|[\s'\"(=:])(/[\w.-]+)", text)
    assert not re.findall(r"[\x00-\x09\x0b-\x1f\x7f]", text)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))))
def test_a_link_of_it_leads_somewhere(target):
    assert (notebook.PATH.parent / target).exists()
