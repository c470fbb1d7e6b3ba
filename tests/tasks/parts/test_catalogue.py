import seqio

from switch_tf.data import registry
from switch_tf.tasks.parts import catalogue
from switch_tf.tasks.parts.catalogue import Entry
from switch_tf.tasks.sources.official import OfficialSource


def test_each_task_and_mixture_of_official_files_is_entered():
    registry.load_project_modules()
    names = {entry.name for entry in catalogue.entries()}
    official = {
        name
        for name in seqio.TaskRegistry.names()
        if isinstance(seqio.TaskRegistry.get(name).source, OfficialSource)
    }
    assert names == official | {"glue", "super_glue", "c4_span_corruption", "mc4"}


def test_entries_are_where_the_paper_has_them():
    table_5 = {e.name for e in catalogue.entries() if "5" in (e.paper_table or "")}
    assert table_5 == {
        "glue",
        "squad",
        "super_glue",
        "winogrande_xl",
        "xsum",
        "anli_r3",
        "arc_easy",
        "arc_challenge",
        "web_questions",
        "natural_questions_open",
        "trivia_qa_open",
    }
    assert Entry("cnn_dailymail", "Table 4", "ROUGE-2") in catalogue.entries()
