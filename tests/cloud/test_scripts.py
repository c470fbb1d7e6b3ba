"""The commands of scripts/tpu on the stub of gcloud, which runs worker.sh in real shells."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switch_tf import stages
from switch_tf.checkpoints import lock, model_dir
from switch_tf.cloud import __main__ as cloud
from switch_tf.cloud import tpu as tpus
from switch_tf.hosts.cluster import Cluster
from tests.cloud.conftest import COMMAND, MODEL, PLACE, ROOT, program

NASTY = [
    "--gin.MIXTURE=\"it's $HOME `id` \\ and 'more'\"",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}",
    "--gin.schedule=@schedules.rsqrt()",
    "--gin.INITIAL_CHECKPOINT_SKIPPED=['switch_ffn/', 'a  b']",
    "--gin.X=$(touch broken) ; touch broken & !! # ~ * {a,b}\ttab\nline",
    "",
    "--",
]


def arguments(zone, worker):
    return [json.loads(line) for line in zone.lines(f"argv_{worker}.jsonl")]


def wait_for(what):
    for _ in range(500):
        if what():
            return
        time.sleep(0.02)
    raise AssertionError("it does not come")


def state(zone):
    tpu = tpus.Slice("tpu-a", "my-project", "us-central2-b", cloud.gcloud.Shell())
    return tpu.workers()


def test_from_nothing_to_a_run_and_back(zone):
    status, told, _ = zone.call("create", "--type=v4-16", "--tier=spot", "--valid_until=6h")
    assert status == 0
    assert "--spot" in told and "--valid-until-duration=6h" in told
    zone.wait()
    assert zone.call("set_up")[0] == 0
    # What the lock is, is agreed with scripts/setup.sh.
    assert zone.lines("locks.txt") == ["tpu", "tpu"]
    assert zone.call("launch", *COMMAND)[0] == 0
    wait_for(lambda: all(worker.status == 0 for worker in state(zone).values()))
    jobs = "10.0.0.0:19011,10.0.0.1:19011"
    for index in range(2):
        assert arguments(zone, index) == [
            {"argv": list(COMMAND[1:]), "jobs": jobs, "client": str(index)}
        ]
    found = Cluster.find({"DTENSOR_JOBS": jobs, "DTENSOR_CLIENT_ID": "1"})
    assert (found.addresses, found.index) == (tuple(jobs.split(",")), 1)
    assert (zone.model_dir / "checkpoint_10").exists()
    assert zone.call("delete")[0] == 0
    assert not zone.exists()


def test_one_worker_is_alone(zone, monkeypatch):
    monkeypatch.setenv("STUB_WORKERS", "1")
    zone.make()
    assert zone.call("launch", *COMMAND)[0] == 0
    wait_for(lambda: state(zone)[0].status == 0)
    assert arguments(zone, 0)[0]["jobs"] is None


def test_a_command_survives_every_shell_on_its_way(zone):
    zone.make()
    assert zone.call("launch", "--", "tasks", *NASTY)[0] == 0
    wait_for(lambda: all(worker.state == "ended" for worker in state(zone).values()))
    assert [found["argv"] for found in arguments(zone, 1)] == [["tasks", *NASTY]]
    assert not list(zone.folder.rglob("broken"))


@settings(max_examples=10, deadline=None)
@given(words=st.lists(st.text(st.sampled_from("a '\"\\$`!*(;#\n")), max_size=4))
def test_any_command_survives(words):
    """Through what launch passes to gcloud, as it and ssh split and join it."""
    tpu = tpus.Slice("a", "my-project", "us-central2-b", cloud.gcloud.Shell())
    (flag,) = [word for word in tpu.ssh(["printf", "%s\\0", *words]) if word.startswith("--comm")]
    command = " ".join(flag.removeprefix("--command=").split(" "))
    told = subprocess.run(["bash", "-c", command], capture_output=True, check=True, text=True)
    assert told.stdout.split("\0")[:-1] == (words or [""])


SUDO = """#!/bin/bash
echo "$*" >> "$STUB_FOLDER/sudo.txt"
case $* in
  *" update") [[ $(grep -c update "$STUB_FOLDER/sudo.txt") -gt 2 ]] ;;
  *" install "*) cp /usr/bin/true "$STUB_FOLDER/worker_bin/python3.11" ;;
esac
"""


def test_a_machine_whose_python_makes_no_venv_gets_one(zone, monkeypatch):
    """While the machine updates itself, the lists of packages cannot be had."""
    monkeypatch.setenv("STUB_WORKERS", "1")
    zone.call("create", "--type=v4-8")
    zone.wait()
    # A Python without ensurepip, as Ubuntu's own.
    program(zone.folder / "worker_bin" / "python3.11", "#!/bin/sh\nexit 1\n")
    program(zone.folder / "worker_bin" / "sudo", SUDO)
    program(zone.folder / "worker_bin" / "sleep", "#!/bin/sh\n")
    assert zone.call("set_up")[0] == 0
    update = "apt-get -o DPkg::Lock::Timeout=600 -qq update"
    assert zone.lines("sudo.txt") == [
        "add-apt-repository -y -n ppa:deadsnakes/ppa",
        *[update] * 3,
        "apt-get -o DPkg::Lock::Timeout=600 -qq install -y python3.11 python3.11-venv",
    ]


def test_v5e_is_asked_for_by_the_name_that_the_api_has(zone):
    assert zone.call("create", "--type=v5e-16")[0] == 0
    (call,) = zone.calls("compute", "tpus", "queued-resources", "create")
    assert "--accelerator-type=v5litepod-16" in call
    assert "--runtime-version=v2-alpha-tpuv5-lite" in call


def test_a_launch_wants_the_file_of_the_slice_that_is_there(zone):
    zone.make()
    status, _, told = zone.call("launch", *COMMAND, "--gin_file=slices/v4_32.gin")
    assert status == 2 and "error: tpu-a is a v4-16, but the command has slices/v4_32.gin" in told
    assert not zone.calls("storage") and told.count("\n") == 1
    files = ("--gin_file=slices/v4_16.gin", "--gin_file=my_slices/v4_32.gin")
    assert zone.call("launch", *COMMAND, *files)[0] == 0
    zone.call("stop")
    mesh = ("--gin_file=slices/v4_32.gin", "--gin.MESH_SHAPE='batch:8'")
    assert zone.call("launch", *COMMAND, *mesh)[0] == 0


def test_a_second_set_up_is_quick_and_one_of_another_commit_replaces_the_files(zone):
    zone.make()
    assert "is set up" not in "".join(zone.lines("calls.txt"))
    home = zone.folder / "workers" / "tpu-a" / "0" / "switch_tf"
    (home / ".venv-tpu" / "kept").touch()
    (home / "old").touch()
    assert zone.call("set_up")[0] == 0 and (home / "old").exists()
    project = tpus.ROOT
    (project / "new").touch()
    settings = ("-c", "user.name=n", "-c", "user.email=m")
    for words in (["add", "."], [*settings, "commit", "-q", "-m", "m"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    assert zone.call("set_up")[0] == 0
    assert {path.name for path in home.iterdir()} == {"code", "new", "scripts", ".venv-tpu"}
    assert (home / ".venv-tpu" / "kept").exists()


def test_changes_that_are_not_committed_are_told(zone):
    zone.make()
    (tpus.ROOT / "scripts" / "setup.sh").write_text("other")
    told = zone.call("set_up")[1]
    assert "note: changes that are not committed are not sent (scripts/setup.sh" in told


def test_a_run_that_goes_on_is_not_disturbed(zone):
    zone.write("scenario.json", [[[0, 3, "hang"], [1, 3, "hang"]]])
    zone.make()
    assert zone.call("launch", *COMMAND)[0] == 0
    for name, words in (("launch", COMMAND), ("set_up", ()), ("delete", ())):
        status, _, told = zone.call(name, *words)
        assert status == 2
        assert told == (
            f"scripts/tpu/{name}.sh: error: a run goes on, on worker 0, 1: stop it first "
            "(scripts/tpu/stop.sh tpu-a)" + ", or give --force" * (name == "delete") + "\n"
        )
    assert zone.call("delete", "--force")[0] == 0


def test_stop_saves_and_kill_does_not(zone):
    zone.write("scenario.json", [[[0, 3, "hang"], [1, 3, "hang"]]] * 2)
    zone.make()
    assert zone.call("launch", *COMMAND)[0] == 0
    assert zone.call("stop", "--wait=20")[0] == 0
    assert [(w.state, w.status, w.is_stopped) for w in state(zone).values()] == [
        ("ended", 143, True),
        ("ended", 143, True),
    ]
    assert zone.call("launch", *COMMAND)[0] == 0
    assert zone.call("stop", "--kill")[0] == 0
    assert [(w.state, w.status, w.is_stopped) for w in state(zone).values()] == [
        ("ended", 137, True),
        ("ended", 137, True),
    ]


def test_a_stage_that_only_tells_how_long_it_takes_makes_no_progress(zone, monkeypatch):
    """As `stages` writes it; one that tells how far it is makes some."""
    zone.make()
    monkeypatch.setattr(stages, "_EVERY", 0.02)
    log = zone.folder / "workers" / "tpu-a" / "0" / tpus.LOG
    log.parent.mkdir()
    log.write_text("step 1\n")

    def write(part):
        with open(log, "a") as file, contextlib.redirect_stderr(file):
            with stages.telling("reading files", at_once=False) as tell:
                tell(part)
                time.sleep(0.1)

    def age():
        for path in log.parent.iterdir():
            os.utime(path, (time.time() - 1000, time.time() - 1000))

    write("1 of 3 files")
    assert state(zone)[0].silent < 900
    age()
    assert state(zone)[0].silent >= 1000
    write("1 of 3 files")
    assert log.read_text().count("1 of 3 files, 0 s so far\n") > 2
    assert state(zone)[0].silent >= 1000
    write("2 of 3 files")
    assert state(zone)[0].silent < 900


def test_a_machine_that_was_started_again_has_lost_its_run(zone):
    zone.write("scenario.json", [[[0, 3, "hang"], [1, 3, "hang"]]])
    zone.make()
    zone.call("launch", *COMMAND)
    assert state(zone)[0].state == "running"
    run = zone.folder / "workers" / "tpu-a" / "0" / "switch_tf_run"
    (run / "boot").write_text("an earlier start")
    assert [(w.state, w.status) for w in state(zone).values()] == [
        ("lost", None),
        ("running", None),
    ]


def test_a_worker_that_refuses_leaves_no_part_of_a_run(zone):
    zone.make()
    # It answers the look before the start.
    zone.set(refused={"1": 1}, refused_when=" start ")
    status, _, told = zone.call("launch", *COMMAND)
    assert status == 2
    assert "starting the run on tpu-a: status 255; the lines above say why" in told
    assert state(zone)[0].status == 137


def test_a_worker_that_does_not_answer_is_named(zone):
    zone.make()
    zone.set(refused={"1": 9})
    status, _, told = zone.call("launch", *COMMAND)
    assert status == 2
    assert told == (
        "scripts/tpu/launch.sh: error: tpu-a: no answer from worker 1: run scripts/tpu/set_up.sh "
        "tpu-a\n"
    )


def test_a_slice_of_which_a_worker_does_not_answer_is_deleted_only_by_force(zone):
    """As a run may go on there."""
    zone.make()
    for refused, silent in (({"1": 1}, "1"), ({"0": 1, "1": 1}, "0, 1")):
        zone.set(refused=refused)
        status, _, told = zone.call("delete")
        assert (status, zone.exists()) == (2, True)
        assert told == (
            f"scripts/tpu/delete.sh: error: tpu-a: no answer by ssh from worker {silent}, on which "
            "a run may go on: look again, or give --force\n"
        )
    zone.set(refused={"1": 9})
    assert zone.call("delete", "--force")[0] == 0 and not zone.exists()


def test_a_worker_that_does_not_know_who_it_is_does_not_train_alone(zone):
    zone.make()
    program(zone.folder / "worker_bin" / "curl", "#!/bin/sh\nexit 22\n")
    zone.call("launch", *COMMAND)
    assert not zone.lines("argv_0.jsonl") and not zone.lines("argv_1.jsonl")


def test_compute_engine_names_its_workers_otherwise(zone):
    zone.make()
    program(
        zone.folder / "worker_bin" / "curl",
        '#!/bin/sh\ncase $* in *worker-id) echo -n "$STUB_WORKER";; '
        "*worker-network-endpoints) echo -n group-a1b2,group-c3d4;; *) exit 22;; esac\n",
    )
    assert zone.call("launch", *COMMAND)[0] == 0
    wait_for(lambda: len(arguments(zone, 0)) + len(arguments(zone, 1)) == 2)
    assert arguments(zone, 1)[0]["jobs"] == "group-a1b2:19011,group-c3d4:19011"
    assert arguments(zone, 1)[0]["client"] == "1"


def test_slices_of_one_name_in_two_zones_share_nothing(zone):
    """The chief of the one must not be taken for a lost one of the other."""
    shell = cloud.gcloud.Shell()
    places = [
        ("my-project", "us-central2-b"),
        ("my-project", "europe-west4-a"),
        ("other1", "us-a1-b"),
    ]
    found = [tpus.Slice("tpu-a", project, place, shell) for project, place in places]
    for number, tpu in enumerate(found):
        tpu.kept.remember(f"t1v-n-{number}-w-0")
    assert [tpu.kept.lost_chiefs("new") for tpu in found] == [
        ["t1v-n-0-w-0"],
        ["t1v-n-1-w-0"],
        ["t1v-n-2-w-0"],
    ]
    assert len({tpu.archive("HEAD") for tpu in found}) == 3


def test_the_log_is_followed(zone):
    zone.make()
    zone.call("launch", *COMMAND)
    wait_for(lambda: state(zone)[1].status == 0)
    log = zone.folder / "workers" / "tpu-a" / "1" / tpus.LOG
    assert log.read_text().splitlines()[-1].endswith("UTC] ended with status 0")
    # The stub's ssh ends when this does.
    words = cloud.main(["follow", "tpu-a", *PLACE, "--worker=1", "--lines=2", "--dry-run"])
    assert words == 0
    assert "--command='tail -n 2 -F switch_tf_run/log.txt'" in zone.capsys.readouterr().out


def test_no_connection_is_waited_for_without_an_end(zone):
    """Neither one that does not come nor one that is dead."""
    zone.make()
    zone.call("launch", *COMMAND)
    zone.call("stop")
    calls = zone.calls("compute", "tpus", "tpu-vm", "ssh")
    copies = zone.calls("compute", "tpus", "tpu-vm", "scp")
    assert len(calls) == 5 and len(copies) == 1
    options = ["ConnectTimeout=20", "ServerAliveInterval=15", "ServerAliveCountMax=4"]
    for kind, found in (("ssh", calls), ("scp", copies)):
        flags = [f"--{kind}-flag=-o{option}" for option in options]
        assert all(set(flags) <= set(call) for call in found)


def test_a_look_that_does_not_end_is_ended(zone, monkeypatch, tmp_path):
    """What came until then counts."""
    zone.make()
    line = "switch_tf worker=1 host=h state=none status=- stopped=no silent=0 code=none"
    program(tmp_path / "bin" / "gcloud", f"#!/bin/sh\necho {line}\nexec sleep 60\n")
    monkeypatch.setattr(cloud.gcloud, "LOOK", 0.5)
    assert list(state(zone)) == [1]
    assert zone.call("delete")[::2] == (
        2,
        "scripts/tpu/delete.sh: error: looking at tpu-a: no end after 0 s\n",
    )


def test_a_slice_that_exists_is_named(zone):
    zone.call("create", "--type=v4-16")
    status, _, told = zone.call("create", "--type=v4-16")
    assert status == 2
    assert told == (
        "scripts/tpu/create.sh: error: tpu-a exists in us-central2-b, in state "
        "WAITING_FOR_RESOURCES: use it, delete it first (scripts/tpu/delete.sh tpu-a), or give "
        "another NAME\n"
    )


@pytest.mark.parametrize("text", ["Quota limit 'TPUV4sPod' has been exceeded. Limit: 0", "other"])
def test_what_gcloud_says_is_one_line(zone, text):
    zone.set(create=[text])
    told = f"scripts/tpu/create.sh: error: creating tpu-a: (gcloud.stub) {text}\n"
    status, _, error = zone.call("create", "--type=v4-16")
    assert (status, error) == (2, told)


def test_what_is_not_there_is_told(zone):
    start = "scripts/tpu/launch.sh: error: tpu-a in us-central2-b: "
    end = ": see scripts/tpu/create.sh and scripts/tpu/list.sh\n"
    assert zone.call("launch", *COMMAND)[::2] == (2, f"{start}there is no such slice{end}")
    zone.call("create", "--type=v4-16")
    told = f"{start}its request is WAITING_FOR_RESOURCES{end}"
    assert zone.call("launch", *COMMAND)[::2] == (2, told)
    zone.call("delete")
    assert "was not found" in zone.call("delete")[2]


def test_the_lists(zone):
    zone.call("create", "--type=v4-16")
    assert zone.call("list")[0] == 0
    listed = [call[2:4] for call in zone.calls("compute", "tpus") if "list" in call]
    assert listed == [["queued-resources", "list"], ["tpu-vm", "list"]]


TYPE = "--type=v4-32"


@pytest.mark.parametrize(
    "words, told",
    [
        (["create", "Tpu_A", TYPE, *PLACE], "NAME 'Tpu_A': give up to 62 lower-case letters"),
        (["create", "a", "--type=v4", *PLACE], "--type=v4: give GENERATION-NUMBER, such as v4-32"),
        (["create", "a", "--type=v9-8", *PLACE], "with one of v2, v3, v4, v5litepod, v5p, v6e"),
        (
            ["supervise", "a", "--type=v4-64", *PLACE, *COMMAND, "--gin_file=slices/v4_32.gin"],
            "--type=v4-64, but the command has slices/v4_32.gin, which lays out the devices of a "
            "v4-32: give that type, the file of the type, or --gin.MESH_SHAPE=",
        ),
        (
            [
                "supervise",
                "a",
                "--type=v5e-16",
                *PLACE,
                *COMMAND,
                "--gin_file",
                "slices/v5e_256.gin",
            ],
            "--type=v5litepod-16, but the command has slices/v5e_256.gin, which",
        ),
        (["create", "a", "--type=v4-12", *PLACE], "v4 counts cores, eight on a machine"),
        (["create", "a", "--type=tpu7x-8", *PLACE], "the TPU API does not offer it"),
        (["create", "a", TYPE, "--tier=cheap", *PLACE], "argument --tier: invalid choice: 'cheap'"),
        (["create", "a", TYPE, "--valid_until=6", *PLACE], "give a time such as 6h or 1d12h"),
        (["create", "a", TYPE, "--service_account=a", *PLACE], "give its address, such as NAME@"),
        (["create", "a", *PLACE], "the following arguments are required: --type; see scripts/tpu"),
        (["create", "a", TYPE, PLACE[1]], "no project: give --project, or set CLOUDSDK_CORE_PROJ"),
        (["create", "a", TYPE, PLACE[0]], "no zone: give --zone, or set CLOUDSDK_COMPUTE_ZONE"),
        (["create", "a", TYPE, "--project=My Project", PLACE[1]], "--project=My Project: give a"),
        (["create", "a", TYPE, PLACE[0], "--zone=us"], "--zone=us: give a zone, such as us-cent"),
        (["list", PLACE[0]], "no zone"),
        (["launch", "a", *PLACE, "train"], "give behind -- what the workers are to run"),
        (["launch", "a", *PLACE, "--", "--gin_file=a"], "give a subcommand of switch-tf behind"),
        (["launch", "a", *PLACE, "--", "train"], "all workers must write to one MODEL_DIR on gs:/"),
        (
            ["launch", "a", *PLACE, "--", "train", "--gin.MODEL_DIR='runs/a'"],
            "give --gin.MODEL_DIR=\"'gs://BUCKET/FOLDER'\", but it is 'runs/a'",
        ),
        (["supervise", "a", TYPE, *PLACE, "--tries=x", *COMMAND], "'x' is not a whole number"),
        (["supervise", "a", TYPE, *PLACE, "--poll=-1", *COMMAND], "'-1' is not a number above 0"),
        (["supervise", "a", TYPE, *PLACE, "--silence=nan", *COMMAND], "'nan' is not a number ab"),
        (["supervise", "a", TYPE, *PLACE, "--commit=x", *COMMAND], "--commit=x: git: fatal: "),
        (["stop", "a", *PLACE, "--wait=-1"], "'-1' is not a whole number"),
    ],
)
def test_bad_input_is_one_line_and_calls_nothing(zone, words, told):
    assert cloud.main(words) == 2
    shown, error = zone.capsys.readouterr()
    assert told in error and error.count("\n") == 1
    assert error.startswith(f"scripts/tpu/{words[0]}.sh: error: ")
    assert not zone.lines("calls.txt")


def test_without_gcloud_it_says_where_to_get_it(zone, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for words in (["create", "a", TYPE, *PLACE], ["list", *PLACE]):
        assert cloud.main(words) == 2
        error = zone.capsys.readouterr().err
        assert "gcloud is not on the PATH: install the Google Cloud CLI" in error


SCRIPTS = sorted(path.stem for path in (ROOT / "scripts" / "tpu").glob("*.sh"))
COMMANDS = [name for name in SCRIPTS if name not in ("python", "worker")]
GIVEN = {
    "create": ["a", TYPE],
    "list": [],
    "launch": ["a", *COMMAND],
    "supervise": ["a", TYPE, *COMMAND],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_needs_python_alone_to_show_its_commands(name, tmp_path):
    """No gcloud, no installed package, and any working directory."""
    program(tmp_path / "bin" / "python3.11", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    place = {"CLOUDSDK_CORE_PROJECT": "my-project", "CLOUDSDK_COMPUTE_ZONE": "us-central2-b"}
    words = GIVEN.get(name, ["a"])
    words = [*words[:1], "--dry-run", *words[1:]] if words else ["--dry-run"]
    for name_of_bin in ("dirname", "git"):
        (tmp_path / "bin" / name_of_bin).symlink_to(f"/usr/bin/{name_of_bin}")
    done = subprocess.run(
        ["/bin/bash", str(ROOT / "scripts" / "tpu" / f"{name}.sh"), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin"), **place},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "gcloud compute tpus " in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_script_can_be_run_and_explains_itself(name, zone):
    assert os.access(ROOT / "scripts" / "tpu" / f"{name}.sh", os.X_OK)
    with pytest.raises(SystemExit) as end:
        cloud.main([name, "--help"])
    assert end.value.code == 0
    assert zone.capsys.readouterr().out.startswith(f"usage: scripts/tpu/{name}.sh ")


def test_without_a_python_a_script_says_so(tmp_path):
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    script = ROOT / "scripts" / "tpu" / "list.sh"
    done = subprocess.run(
        ["/bin/bash", str(script)], capture_output=True, text=True, env={"PATH": str(tmp_path)}
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: Python 3.11 or newer is needed")


def test_the_model_dir_that_a_supervisor_looks_at_is_what_runs_write():
    """Names of files and fields that another package decides."""
    assert model_dir.ModelDir("gs://b/m").in_use == "gs://b/m/in_use"
    assert "host" in {field.name for field in dataclasses.fields(lock.Holder)}
    assert MODEL == "--gin.MODEL_DIR='gs://bucket/model'"
