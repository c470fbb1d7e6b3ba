"""A gcloud that keeps the states of a zone in a folder, and fails as its `faults.json` says.

A worker is a folder, in which a real shell runs what comes by ssh. `faults.json` has

  create: what the next requests meet: an error's text, or null for none;
  grants: what becomes of the next requests: ACTIVE, or FAILED with an error's text behind it;
  refused: how often each worker refuses ssh, by its number;
  answered: how often each worker answers before;
  refused_when: what the refused commands have in them;
  preempted: a file; once it is there, the slice is taken back, and the file removed;
  taken: state of the queued resource then;
  node: what the look at a slice meets, as create does.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(os.environ["STUB_FOLDER"])
WORKERS = int(os.environ.get("STUB_WORKERS", "2"))


def load(name):
    path = HERE / name
    return json.loads(path.read_text()) if path.exists() else {}


def keep(name, value):
    (HERE / name).write_text(json.dumps(value))


def fail(text, status=1):
    print(f"ERROR: (gcloud.stub) {text}", file=sys.stderr)
    sys.exit(status)


def flag(name, default=None):
    values = [a.partition("=")[2] for a in sys.argv if a.startswith(f"--{name}=")]
    return values[-1] if values else default


def take(name, default):
    """The next of a list of faults."""
    faults = load("faults.json")
    if not faults.get(name):
        return default
    first = faults[name].pop(0)
    keep("faults.json", faults)
    return first


def homes(name):
    return sorted((HERE / "workers" / name).glob("*"))


def end_processes(name):
    """As when the machines go: nothing has time for anything."""
    import shutil
    import signal

    for home in homes(name):
        for path in home.glob("switch_tf_run/pid"):
            try:
                os.killpg(int(path.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(home)


def preempt(zone):
    faults = load("faults.json")
    mark = faults.get("preempted")
    if not mark or not Path(mark).exists():
        return
    Path(mark).unlink()
    for name, found in zone.items():
        end_processes(name)
        found["node"] = "PREEMPTED"
        found["state"] = faults.get("taken", "ACTIVE")
    keep("zone.json", zone)


def queue(verb, name):
    zone = load("zone.json")
    preempt(zone)
    if verb == "list":
        print("NAME STATE")
        print("".join(f"{n} {q['state']}\n" for n, q in zone.items()), end="")
        return
    if verb == "create":
        error = take("create", None)
        if error:
            fail(error)
        if name in zone:
            fail(f"ALREADY_EXISTS: Resource 'projects/p/locations/z/queuedResources/{name}'")
        count = load("count.json").get("created", 0)
        keep("count.json", {"created": count + 1})
        zone[name] = {"state": "WAITING_FOR_RESOURCES", "node": "MISSING", "number": count}
        zone[name] |= {"grant": take("grants", "ACTIVE"), "type": flag("accelerator-type")}
    elif name not in zone:
        fail(f"NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/{name}' was not found")
    elif verb == "delete":
        if zone[name]["node"] != "MISSING" and "--force" not in sys.argv:
            fail("FAILED_PRECONDITION: it has nodes")
        end_processes(name)
        del zone[name]
    else:
        state, _, why = zone[name]["state"].partition(":")
        told = {"state": state}
        if why:
            told["failedData"] = {"error": {"code": 8, "message": why}}
        print(json.dumps({"name": name, "state": told}))
        following = {"WAITING_FOR_RESOURCES": "PROVISIONING", "PROVISIONING": zone[name]["grant"]}
        zone[name]["state"] = following.get(state, zone[name]["state"])
        if state == "PROVISIONING" and zone[name]["grant"] == "ACTIVE":
            zone[name]["node"] = "READY"
            for index in range(WORKERS):
                (HERE / "workers" / name / str(index)).mkdir(parents=True)
    keep("zone.json", zone)


def node(name):
    zone = load("zone.json")
    preempt(zone)
    if zone.get(name, {}).get("node", "MISSING") == "MISSING":
        fail(f"NOT_FOUND: Resource 'projects/p/locations/z/nodes/{name}' was not found")
    error = take("node", None)
    if error:
        fail(error)
    endpoints = [{"ipAddress": f"10.0.0.{index}"} for index in range(WORKERS)]
    told = {"state": zone[name]["node"], "acceleratorType": zone[name]["type"]}
    print(json.dumps(told | {"networkEndpoints": endpoints}))


def reached(name):
    """The workers that ssh reaches; those that refuse are told as gcloud does."""
    zone = load("zone.json")
    if zone.get(name, {}).get("node") != "READY":
        fail(f"{name} is not READY")
    which, faults = flag("worker"), load("faults.json")
    refusing = faults.get("refused", {})
    for index, home in enumerate(homes(name)):
        if which not in ("all", str(index)):
            continue
        is_meant = faults.get("refused_when", "") in (flag("command") or "")
        if faults.get("answered", {}).get(str(index), 0) > 0:
            faults["answered"][str(index)] -= 1
            is_meant = False
        if is_meant and refusing.get(str(index), 0) > 0:
            refusing[str(index)] -= 1
            print("SSH command error: [ssh] exited with return code [255].", file=sys.stderr)
            yield index, None
        else:
            yield index, home
    keep("faults.json", faults)


def ssh(name):
    import subprocess

    number = load("zone.json").get(name, {}).get("number")
    status = 0
    for index, home in list(reached(name)):
        if home is None:
            status = status or 255
            continue
        # gcloud splits the command at blanks, and ssh joins it with them.
        command = " ".join(flag("command").split(" "))
        environment = {
            "HOME": str(home),
            "PATH": f"{HERE / 'worker_bin'}:/usr/bin:/bin",
            "STUB_FOLDER": str(HERE),
            "STUB_WORKERS": str(WORKERS),
            "STUB_WORKER": str(index),
            "STUB_HOST": f"t1v-n-{number}-w-{index}",
        }
        done = subprocess.run(["bash", "-c", command], cwd=home, env=environment)
        status = status or done.returncode
    sys.exit(status)


def scp(words):
    import shutil

    *sources, target = words
    name, _, path = target.partition(":")
    failed = False
    for _, home in list(reached(name)):
        failed = failed or home is None
        for source in sources if home else []:
            shutil.copy(source, home / path)
    sys.exit(255 if failed else 0)


def storage(verb, url):
    path = HERE / "gs" / url.removeprefix("gs://")
    if not path.exists():
        fail(f"The following URLs matched no objects or files:\n{url}")
    if verb == "ls":
        print("".join(f"{url}{p.name}{'/' * p.is_dir()}\n" for p in sorted(path.iterdir())), end="")
    elif verb == "cat":
        print(path.read_text(), end="")
    elif verb == "rm":
        path.unlink()
    else:
        fail(f"Invalid choice: '{verb}'")


def main():
    with open(HERE / "calls.txt", "a") as calls:
        print(json.dumps(sys.argv[1:]), file=calls)
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if words[:3] == ["compute", "tpus", "queued-resources"]:
        queue(words[3], (words[4:] or [""])[0])
    elif words[:4] == ["compute", "tpus", "tpu-vm", "describe"]:
        node(words[4])
    elif words[:4] == ["compute", "tpus", "tpu-vm", "ssh"]:
        ssh(words[4])
    elif words[:4] == ["compute", "tpus", "tpu-vm", "scp"]:
        scp(words[4:])
    elif words[:4] == ["compute", "tpus", "tpu-vm", "list"]:
        print("NAME ZONE STATUS")
    elif words[:1] == ["storage"]:
        storage(words[1], words[2])
    else:
        fail(f"Invalid choice: {words}")


main()
