import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gin
import pytest

from switch_tf import config
from switch_tf.commands import main as main_module
from switch_tf.pages import reproduce_on_tpu as page
from switch_tf.pages.registry import PAGES
from switch_tf.planner.slices import Slice
from switch_tf.reproduce import paper_scale
from switch_tf.reproduce.experiments.paper_arms import ARMS
from switch_tf.reproduce.paper_slices import Costs
from switch_tf.reproduce.registry import EXPERIMENTS

DOCS = Path(__file__).parent.parent.parent / "docs"
COSTS = Costs()


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


@functools.cache
def text():
    return (DOCS / "reproduce_on_tpu.md").read_text()


def section(name):
    return text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", ["table2", "table3", "table6"])
def test_a_table_of_the_page_is_what_the_planner_says_now(name):
    """The whole page is compared by the next test, in half a minute."""
    for run in paper_scale.runs(name):
        row = re.search(rf"^\| `{paper_scale.file_name(run)}` \|(.*)\|$", text(), re.MULTILINE)
        found = tuple(map(str.strip, row[1].split("|")))
        assert found == page.cells(run, COSTS, Slice.parse("v3-8").chip.dollars)[1:]


def test_the_whole_page_is_what_the_planner_says_now():
    """If not: scripts/docs.sh reproduce_on_tpu."""
    assert PAGES["reproduce_on_tpu"].stale(DOCS) == []


def test_every_run_at_the_papers_scale_is_there_once():
    names = {paper_scale.file_name(run) for name in ARMS for run in paper_scale.runs(name)}
    found = re.findall(r"^\| `(\w+\.gin)` \|", text(), re.MULTILINE)
    assert len(found) == len(set(found))
    assert set(found) == names


def test_a_run_with_a_teacher_takes_its_forward_pass_longer():
    runs = {run.name: COSTS.of(run) for run in paper_scale.runs("table6")}
    alone = runs["pre-training T5-Base"]
    for name, cost in runs.items():
        assert (cost.teacher > 0) == name.startswith("distilling")
        if name.startswith("distilling"):
            assert cost.estimate.seconds == alone.estimate.seconds
            # Of a model with as many operations and more: a third of a step, and its dispatch.
            assert 0.2 < cost.teacher / alone.estimate.seconds < 1.0


def test_rows_are_in_the_order_of_claims_per_chip_hour():
    rows = re.findall(r"^\| (\w+\d+) \| (\d+) \| \d+ \| (\d+) \| ([\d,]+) \|", text(), re.MULTILINE)
    assert {name for name, *_ in rows} == ARMS.keys()
    for name, claims, _, _ in rows:
        assert int(claims) == len(EXPERIMENTS[name].claims)
    # The first is the cheapest claim; what costs most is last.
    per_hour = [
        int(claims) / float(hours.replace(",", "")) for _, claims, n, hours in rows if n != "0"
    ]
    assert per_hour[0] == max(per_hour) and per_hour[-1] == min(per_hour)


def test_the_price_is_that_of_the_slices():
    assert f"Dollars are at {Slice.parse('v3-8').chip.dollars:.2f} a chip-hour" in " ".join(
        text().split()
    )


def command_lines():
    """The commands of the page, with a run of it in the place of what they leave open."""
    blocks = re.findall(r"^```\n(.*?)^```$", text(), re.MULTILINE | re.DOTALL)
    told = "".join(blocks).replace("\\\n", "")
    for name, value in PLACES.items():
        told = told.replace(name, value)
    return [shlex.split(line) for line in told.splitlines()]


PLACES = {
    "FILE": "switch_base_8_experts_pretrain.gin",
    "NAME": "figure12",
    "SLICE": "v3-8",
    "MODEL/KIND": "switch_base_8_experts/pretrain",
}


def test_the_commands_of_the_page_write_a_run_and_launch_it(tmp_path):
    """As a reader would give them, but for what costs money, which is only shown."""
    write, add, launch = command_lines()
    folder = tmp_path / "paper/figure12"
    assert write[:4] == ["switch-tf", "reproduce", "run", "figure12"]
    assert write[4:] == ["--scale=paper", "--output_dir=paper/figure12"]
    assert add[:3] == ["git", "add", "paper/figure12"]
    assert "paper/" not in (DOCS.parent / ".gitignore").read_text().splitlines()
    main_module.main([*write[1:5], f"--output_dir={folder}"])
    # With a place for gcloud that is not there, nothing can be asked of Google.
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    script, *flags = launch
    given = [*flags[: flags.index("--")], "--dry-run", *flags[flags.index("--") :]]
    done = subprocess.run(
        ["bash", str(DOCS.parent / script), *given],
        capture_output=True,
        text=True,
        env=environment,
        cwd=DOCS.parent,
    )
    assert done.returncode == 0, done.stderr
    assert "--accelerator-type=v3-8" in done.stdout
    train = flags[flags.index("--") + 1 :]
    assert train[0] == "train"
    (file,) = (word.partition("=")[2] for word in train if word.startswith("--gin_file="))
    bindings = [word.removeprefix("--gin.") for word in train if word.startswith("--gin.")]
    settings = config.precheck([str(tmp_path / file)], bindings)
    assert settings["MODEL_DIR"] == "gs://my-bucket/paper/switch_base_8_experts/pretrain"
    assert settings["DEVICE_TYPE"] == "TPU" and settings["MESH_SHAPE"] == "batch:8"
