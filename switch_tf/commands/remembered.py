"""What a command takes from the config.gin of a run, so that users need not repeat it.

The run is that of the checkpoint which the command reads, or one whose config.gin is a --gin_file.
Flags and a user's own gin files override what is taken, which overrides the project's gin files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from switch_tf import config, configurables, gin_files, rules, storage
from switch_tf.checkpoints import model_dir
from switch_tf.commands.given import Given, difference, name_of, of_project, plain, statement_of
from switch_tf.gin_files import MACRO, REQUIRED, Key, Macro, Reference, Setting, Settings, Statement
from switch_tf.tasks.vocabulary import vocabulary_path

# What is taken: the vocabulary; "start" takes the model, too, and "restore" both and the task.
_Use = Literal["vocabulary", "start", "restore"]
_ROOMS = {
    "vocabulary": (),
    "start": ("switch_tf.layers.", "switch_tf.models."),
    "restore": ("switch_tf.layers.", "switch_tf.models.", "switch_tf.data.", "switch_tf.tasks."),
}
_TAKEN = {
    "vocabulary": "vocabulary taken from",
    "start": "model and vocabulary taken from",
    "restore": "model, vocabulary, task, lengths and batch size taken from",
}
_RUN = "train.model_dir"
# Of those rooms, what each run decides for itself.
_OWN = {"TaskData.split", "TaskData.pack", "TaskData.seed", "TaskData.shares", "DEVICE_TYPE"}
# Each run has its own rates; of the model is only which macro gives them.
_RATES = {
    f"{configurables.MODEL}.dropout_rate": "DROPOUT_RATE",
    f"{configurables.MODEL}.expert_dropout_rate": "EXPERT_DROPOUT_RATE",
}


@dataclasses.dataclass
class Remembered:
    """What is read in place of a command's gin files.

    Attributes:
      files: the gin files without those of runs.
      statements: what is taken from runs, which gin reads after the files and before the flags.
      lines: to be printed at the start: where it was taken from, and each setting in which the
        run, the files and the flags differ.
    """

    files: list[str]
    statements: list[Statement] = dataclasses.field(default_factory=list)
    lines: list[str] = dataclasses.field(default_factory=list)


def remember(
    files: Sequence[str],
    bindings: Sequence[str],
    trains: bool,
    start: Callable[[config.Values], None],
) -> Remembered:
    """Takes what a command's files and flags leave to the runs that they name.

    Args:
      files, bindings: see `config.precheck`.
      trains: whether the command trains; a config.gin among its files is then the whole run's.
      start: starts TensorFlow for the given settings, to read a remote checkpoint.

    Raises:
      UserError: a named checkpoint does not exist or cannot be read.
    """
    of_runs = [] if trains else [name for name in files if model_dir.is_run_config(name)]
    found = Remembered([name for name in files if name not in of_runs])
    given = Given(found.files, bindings)
    for name in of_runs:
        run = _Run(gin_files.read_text(storage.read_text(name), name), name, "restore")
        found.statements += [*run.lacked(given), *run.taken(given)]
        found.lines += run.told(given, [*found.statements, *bindings])
    use = "start" if trains else "restore"
    folders = dict(configurables.marked(rules.Folder))
    for parameter, checkpoint in configurables.marked(rules.Checkpoint):
        path = given.values.get(parameter)
        # Values of other types are refused by the checks after this.
        if not path or not isinstance(path, str) or checkpoint.use != use:
            continue
        setting, remote = given.values.called[parameter], storage.is_remote(path)
        if remote or trains and storage.is_remote(given.values.get(_RUN)):
            start(given.values)
        if trains and is_resumed(given.values):
            setting, path = "MODEL_DIR", given.values[_RUN]
        elif not remote:
            model_dir.find(folders[parameter].check(setting, path), setting)
        # Who names a model file for a fine-tuning means its model.
        has_own = trains and any(given.model_files())
        with storage.told(f"{setting}='{path}' cannot be read"):
            run = _of_checkpoint(path, "vocabulary" if has_own else use)
        if run is not None:
            found.statements += run.taken(given)
            found.lines += run.told(given, [*found.statements, *bindings])
    # A config.gin may be that of the checkpoint, too.
    found.lines = list(dict.fromkeys(found.lines))
    return found


def is_resumed(values: config.Values) -> bool:
    """Whether a training's MODEL_DIR holds checkpoints, so that it needs its initial one no more.

    Args:
      values: of its files and flags. TensorFlow must be started if MODEL_DIR is remote.
    """
    path = values.get(_RUN)
    with storage.told(f"MODEL_DIR='{path}' cannot be read"):
        return isinstance(path, str) and bool(model_dir.ModelDir(path).steps())


def _of_checkpoint(path: str, use: _Use) -> _Run | None:
    file = model_dir.find_file(path, model_dir.CONFIG)
    if file is None:
        return None
    settings = gin_files.read_text(storage.read_text(file), file)
    copy = model_dir.find_file(path, model_dir.VOCABULARY)
    if copy is not None:
        settings.macros[vocabulary_path.SETTING] = Setting(copy, file)
    return _Run(settings, file, use)


class _Run:
    """The configuration of a run, and what of it others take.

    Args:
      settings: what its config.gin says.
      file: the path of that.
      use: what is taken.
    """

    def __init__(self, settings: Settings, file: str, use: _Use):
        self.settings = settings
        self._file = file
        self._use = use
        if use == "restore":
            self._set_batch_of_evaluation()
        self._has_theirs = use == "restore"
        self._keys = {name_of(key): key for key in self._selected()}

    def _set_batch_of_evaluation(self) -> None:
        """Makes the batch size that of the run's evaluations, where they have one of their own."""
        own = self.settings.literals().get("Evaluation.batch_size")
        for key in [key for key in self.settings.bindings if name_of(key) == "TaskData.batch_size"]:
            name, (_, where) = self.settings.origin(key)
            if own and name in self.settings.macros:
                self.settings.macros[name] = Setting(own, where)
            elif own:
                self.settings.bindings[key] = Setting(own, where)

    def _selected(self) -> list[Key]:
        """The parameters that are taken, of those that the project still has."""
        known = configurables.selector_map(configurables.project_source())
        selected, unknown = [], []
        for key in self.settings.bindings:
            matches = known.matching_selectors(key[1].rpartition(".")[2])
            if not matches:
                unknown.append(key)
            elif self._takes(name_of(key), known[matches[0]], key[2]):
                selected.append(key)
        # What is of no module of the project is of a user's, if the run had one.
        while self._has_modules():
            used = set(self._referred(selected))
            more = [k for k in unknown if self._use == "restore" or k[1].rpartition(".")[2] in used]
            if not more:
                break
            self._has_theirs = True
            selected += more
            unknown = [key for key in unknown if key not in more]
        return selected

    def _takes(self, name: str, found: configurables.Configurable, parameter: str) -> bool:
        takes = found.parameters
        if takes is not None and (
            parameter not in takes or rules.mark(takes[parameter], rules.SetBy)
        ):
            return False
        if name == "ModelSetup.model":
            return self._use != "vocabulary"
        # Steps of T5 are of no room; they are of tasks.
        of_library = self._use == "restore" and not (found.module or "").startswith("switch_tf.")
        in_room = (found.module or "").startswith(_ROOMS[self._use])
        return (of_library or in_room) and name not in _OWN

    def _has_modules(self) -> bool:
        module = self.settings.literals().get("MIXTURE_OR_TASK_MODULE") or configurables.PACKAGE
        return bool(self.settings.imports) or module.split(".")[0] != configurables.PACKAGE

    def _referred(self, keys: Sequence[Key]) -> Iterator[str]:
        for key in keys:
            for part in gin_files.parts(self.settings.origin(key)[1].value):
                if isinstance(part, Reference):
                    yield part.name.rpartition("/")[2].rpartition(".")[2]

    def imports(self) -> Iterator[Statement]:
        """Yields the imports of a user's modules, if anything of them is taken."""
        for module, where in self.settings.imports if self._has_theirs else ():
            yield Statement(f"import {module}", where)

    def lacked(self, given: Given) -> Iterator[Statement]:
        """Yields what the run's file says and no other file or flag, but for its checkpoints."""
        of_checkpoints = {name for name, _ in configurables.marked(rules.Checkpoint)}
        said = {name_of(k) for k, s in given.settings.entries().items() if s.value != REQUIRED}
        yield from self.imports()
        for key, setting in self.settings.entries().items():
            if name_of(key) not in said | of_checkpoints:
                yield statement_of(key, setting)

    def taken(self, given: Given) -> Iterator[Statement]:
        """Yields what is taken of the run: all that is selected and the user does not set."""
        yield from self.imports()
        values = [Macro(name) for name in self._macros()]
        for name, key in self._keys.items():
            setting = self.settings.bindings[key]
            if name in _RATES:
                yield from self._rate(name, given)
                continue
            if not given.is_by_user(name):
                yield statement_of(key, setting)
                values.append(setting.value)
            if macro := given.required(name):
                # A run, or a flag, that sets the parameter itself leaves the macro without a value.
                saved = self.settings.origin(key)[1]
                value, _ = given.setting(name) or saved
                yield statement_of((macro, MACRO, "value"), Setting(value, saved.where))
        seen = set()
        while values:
            for part in gin_files.parts(values.pop()):
                name = part.name if isinstance(part, Macro) else None
                is_new = name in self.settings.macros and name not in seen
                if is_new and not given.is_by_user(name):
                    seen.add(name)
                    setting = self.settings.macros[name]
                    values.append(setting.value)
                    yield statement_of((name, MACRO, "value"), setting)

    def _macros(self) -> list[str]:
        """The macros taken that Python code reads."""
        read = configurables.project_source().macros
        names = sorted(read.keys() - _OWN) if self._use == "restore" else [vocabulary_path.SETTING]
        return [name for name in names if name in self.settings.macros]

    def _rate(self, name: str, given: Given) -> Iterator[Statement]:
        key, macro = self._keys[name], _RATES[name]
        setting = self.settings.bindings[key]
        # None is what models without experts have.
        if name not in given.keys and setting.value is not None:
            is_set = macro in given.settings.macros
            value = Macro(macro) if is_set else self.settings.origin(key)[1].value
            yield statement_of(key, Setting(value, setting.where))

    def told(self, given: Given, bindings: Sequence[str]) -> list[str]:
        """Lines that say what is taken from where, and each setting that differs.

        Args:
          given: what files and flags say.
          bindings: what is taken, and the flags.
        """
        if not self._keys and not self._macros():
            return []
        final = Given(given.files, bindings)
        lines = [f"{_TAKEN[self._use]} {self._file}"]
        for file, is_own in given.model_files() if self._use == "restore" else ():
            if not is_own and any(self._differs(key, given) for key in self._keys.values()):
                lines.append(f"{file} is not used: the model is that of {self._file}")
        for name, key in self._keys.items():
            if name not in _RATES:
                _, saved = self.settings.origin(key)
                called, setting = final.settings.origin(final.keys[name])
                lines.append(difference(called, setting, saved, given.setting(name)))
        for name in self._macros():
            if name in final.settings.macros:
                setting, saved = final.settings.macros[name], self.settings.macros[name]
                lines.append(difference(name, setting, saved))
        lines += self._not_saved(given)
        return list(filter(None, lines))

    def _differs(self, key: Key, given: Given) -> bool:
        """Whether a setting of the model is another by the project's files, or by its default."""
        name, owner = name_of(key), of_project(key)
        is_of_model = owner and (owner.module or "").startswith(_ROOMS["start"])
        if not is_of_model or name in _RATES or given.is_by_user(name):
            return False
        saved = plain(self.settings, key)
        if name in given.keys:
            return plain(given.settings, given.keys[name]) != saved
        return configurables.defaults(owner).get(key[2], saved) != saved

    def _not_saved(self, given: Given) -> Iterator[str]:
        """Yields lines of what others set of the run's layers and the run did not."""
        used = {gin_files.short(key).partition(".")[0] for key in self._keys.values()}
        for name, key in given.keys.items():
            owner = of_project(key)
            setting = given.setting(name)
            if setting and owner and owner.name in used and name not in self._keys:
                if (owner.module or "").startswith(_ROOMS["start"]):
                    value = gin_files.text(setting.value)
                    yield f"  {name}={value} ({setting.where}), not set in {self._file}"
