"""The pages and pictures of docs/ that are made: one entry each."""

import dataclasses
import importlib
import tempfile
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Page:
    """A page, a picture or both, made by `write` of the module `switch_tf.pages.NAME`.

    Attributes:
      name: as `python -m switch_tf.pages` takes it.
      is_cheap: made in seconds; a test holds that docs/ has it up to date.
      needs_run: made of a run's checkpoint.
      devices: that the process has to start with.
      shows_lowered: as `runtime.start`.
    """

    name: str
    is_cheap: bool = False
    needs_run: bool = False
    devices: int = 1
    shows_lowered: bool = False

    def write(self, folder: Path, model_dir: Path | None = None) -> None:
        """Makes its files in a folder; the process has started as it needs.

        Args:
          folder: it exists.
          model_dir: of the run that it is made of, if it needs one.

        Raises:
          UserError: no run, or no checkpoint.
        """
        # Imported here, because it takes TensorFlow.
        module = importlib.import_module(f"switch_tf.pages.{self.name}")
        module.write(folder, *([model_dir] if self.needs_run else []))

    def stale(self, folder: Path, model_dir: Path | None = None) -> list[str]:
        """Names of its files that would be others, were it written into the folder now."""
        with tempfile.TemporaryDirectory() as made:
            self.write(Path(made), model_dir)
            new = {path.name: path.read_bytes() for path in sorted(Path(made).iterdir())}
        kept = {name: folder / name for name in new}
        return [n for n, p in kept.items() if not p.exists() or p.read_bytes() != new[n]]


PAGES = {
    page.name: page
    for page in (
        Page("models", is_cheap=True),
        Page("task_table", is_cheap=True),
        Page("sharding", devices=8, shows_lowered=True),
        Page("switch_layer", needs_run=True),
    )
}
