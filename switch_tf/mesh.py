"""Meshes of devices, and layouts from axis names (paper, Sec. 5; Mesh-TensorFlow's layout rules).

A mesh is written `batch:4,model:2`. Layout rules are written `batch:batch,experts:batch,d_ff:model`
and map a tensor's axis names (left) to mesh dimensions (right). A tensor axis that no rule names is
replicated; of two axes of one tensor that ask for the same mesh dimension, that is an error.

A mesh may span several processes (DTensor's clients). *Global* is what all its devices hold,
*local* what those of this process hold, listed in DTensor's order, that of `dtensor.pack`.

Parsing and checking need no TensorFlow, so a wrong mesh is reported before its start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from switch_tf import runtime
from switch_tf.errors import UserError

# Every axis name that a weight or an activation may be declared with.
AXIS_NAMES = "batch length experts d_model d_ff heads d_kv vocab buckets".split()


def parse_pairs(text: str, what: str) -> list[tuple[str, str]]:
    """Splits `a:b,c:d` into pairs; `what` names the setting in the error.

    Raises:
      UserError: an item without exactly one colon, or a name twice.
    """
    if not isinstance(text, str):
        raise UserError(f"{what}={text!r} is no text: give it as 'name:value,...', in quotes")
    pairs = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, colon, value = (piece.strip() for piece in item.partition(":"))
        if not (name and colon and value) or ":" in value:
            raise UserError(f"{what}='{text}': '{item}' is not of the form name:value")
        if name in (seen for seen, _ in pairs):
            raise UserError(f"{what}='{text}': '{name}' stands twice; keep one")
        pairs.append((name, value))
    return pairs


def parse_mesh_shape(text: str) -> dict[str, int]:
    """Mesh dimensions and sizes of `batch:4,model:2`, in order.

    Raises:
      UserError: not a list of name:positive number.
    """
    shape = {}
    for name, value in parse_pairs(text, "MESH_SHAPE"):
        if not value.isdecimal() or int(value) < 1:
            raise UserError(f"MESH_SHAPE='{text}': size '{value}' of '{name}' is not a number >= 1")
        shape[name] = int(value)
    if not shape:
        raise UserError("MESH_SHAPE is empty: give at least 'batch:1'")
    return shape


def parse_layout_rules(text: str, mesh_shape: dict[str, int]) -> dict[str, str]:
    """Axis name -> mesh dimension of `batch:batch,d_ff:model`.

    A rule whose mesh dimension is absent from the mesh is an error: it would silently replicate.

    Raises:
      UserError: an axis name that no tensor has, or a mesh dimension that the mesh lacks.
    """
    rules = {}
    for axis, dimension in parse_pairs(text, "LAYOUT_RULES"):
        if axis not in AXIS_NAMES:
            raise UserError(
                f"LAYOUT_RULES='{text}': no tensor has an axis '{axis}'; axes are "
                + ", ".join(AXIS_NAMES)
            )
        if dimension not in mesh_shape:
            raise UserError(
                f"LAYOUT_RULES='{text}': the mesh has no dimension '{dimension}', it has "
                + ", ".join(mesh_shape)
            )
        rules[axis] = dimension
    return rules


def check_divides(
    rules: dict[str, str], mesh_shape: dict[str, int], sizes: dict[str, tuple[int, str]]
) -> None:
    """Checks that each axis size divides over its mesh dimension.

    Args:
      rules: axis name -> mesh dimension.
      mesh_shape: mesh dimension -> size.
      sizes: axis name -> (size, name of the setting that it comes from).

    Raises:
      UserError: naming the setting, the sizes and the mesh dimension.
    """
    for axis, (size, setting) in sizes.items():
        ways = mesh_shape.get(rules.get(axis, ""), 1)
        if size % ways:
            raise UserError(
                f"{setting}={size} does not divide over the {ways} devices of mesh dimension "
                f"'{rules[axis]}': change {setting}, MESH_SHAPE or LAYOUT_RULES"
            )


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices arranged by named dimensions, with the rules that lay tensors out over them.

    Attributes:
      shape: mesh dimension -> size.
      rules: tensor axis name -> mesh dimension.
      dtensor_mesh: the `tf.experimental.dtensor.Mesh`.
    """

    shape: dict[str, int]
    rules: dict[str, str]
    dtensor_mesh: object

    @classmethod
    def create(cls, mesh_shape: str, layout_rules: str = "") -> Mesh:
        """Builds the mesh over the first devices of each process, of the type that it started with.

        Raises:
          UserError: malformed text, fewer devices than the mesh has places, or places that do not
            divide over the processes.
        """
        from tensorflow.experimental import dtensor

        mesh = cls.on_paper(mesh_shape, layout_rules)
        kind, processes = runtime.device_type(), dtensor.num_clients()
        there = dtensor.num_global_devices(kind)
        # A mesh over absent devices crashes the process, so they are counted first.
        if mesh.size > there:
            raise UserError(
                f"MESH_SHAPE='{mesh_shape}' asks for {mesh.size} {kind} devices, {there} there: "
                "make it smaller"
            )
        if mesh.size % processes:
            raise UserError(
                f"MESH_SHAPE='{mesh_shape}' has {mesh.size} devices, which do not divide over the "
                f"{processes} processes: change it"
            )
        devices = [f"{kind}:{i}" for i in range(mesh.size // processes)]
        made = dtensor.create_distributed_mesh(
            list(mesh.shape.items()),
            # DTensor itself takes all cores of a TPU, and refuses a list.
            local_devices=None if kind == "TPU" else devices,
            device_type=kind,
        )
        return cls(mesh.shape, mesh.rules, made)

    @classmethod
    def on_paper(cls, mesh_shape: str, layout_rules: str = "") -> Mesh:
        """A mesh without devices, of any size: says what would lie where.

        Raises:
          UserError: malformed text.
        """
        shape = parse_mesh_shape(mesh_shape)
        return cls(shape, parse_layout_rules(layout_rules, shape), None)

    @property
    def size(self) -> int:
        """Number of devices."""
        return math.prod(self.shape.values())

    def ways(self, axis: str) -> int:
        """Number of parts that `axis` is split into."""
        return self.shape.get(self.rules.get(axis, ""), 1)

    def spec(self, axes: Sequence[str | None]) -> list[str]:
        """Mesh dimension of each axis; `dtensor.UNSHARDED` where replicated.

        Raises:
          UserError: two axes of one tensor are sent to the same mesh dimension.
        """
        from tensorflow.experimental import dtensor

        spec = [self.rules.get(axis, dtensor.UNSHARDED) for axis in axes]
        used = [dimension for dimension in spec if dimension != dtensor.UNSHARDED]
        if len(set(used)) < len(used):
            raise UserError(
                f"LAYOUT_RULES send two axes of a tensor {tuple(axes)} to one mesh dimension, "
                f"{spec}: drop one of the two rules"
            )
        return spec

    def layout(self, axes: Sequence[str | None]):
        """`dtensor.Layout` of a tensor with these axis names."""
        from tensorflow.experimental import dtensor

        return dtensor.Layout(self.spec(axes), self.dtensor_mesh)

    def global_places(
        self, axes: Sequence[str | None], shape: Sequence[int]
    ) -> list[tuple[slice, ...]]:
        """What each device of the mesh holds, as slices of the global tensor, in the mesh's order.

        Raises:
          UserError: an axis does not divide over its mesh dimension.
        """
        sizes = {a: (n, a) for a, n in zip(axes, shape, strict=True) if a is not None}
        check_divides(self.rules, self.shape, sizes)
        dimensions = list(self.shape)
        slices = []
        for index in np.ndindex(*self.shape.values()):
            place = dict(zip(dimensions, index, strict=True))
            part = []
            for axis, size in zip(axes, shape, strict=True):
                width = size // self.ways(axis)
                first = place.get(self.rules.get(axis, ""), 0) * width
                part.append(slice(first, first + width))
            slices.append(tuple(part))
        return slices

    def local_places(
        self, axes: Sequence[str | None], shape: Sequence[int]
    ) -> list[tuple[slice, ...]]:
        """What each device of this process holds, as `global_places`, in DTensor's order."""
        every = self.global_places(axes, shape)
        return [every[device] for device in self.dtensor_mesh.local_device_ids()]

    def pack(self, value: np.ndarray, axes: Sequence[str | None]):
        """A DTensor of a host array: each device gets its slice.

        Args:
          value: the global array; of it, a process reads what its own devices get.
          axes: its axis names, one a dimension.
        """
        import tensorflow as tf
        from tensorflow.experimental import dtensor

        parts = [tf.constant(value[place]) for place in self.local_places(axes, value.shape)]
        return dtensor.pack(parts, self.layout(axes))

    @contextlib.contextmanager
    def run(self):
        """Context in which eager ops and compiled functions run on this mesh."""
        from tensorflow.experimental import dtensor

        context = dtensor.default_mesh(self.dtensor_mesh)
        context.__enter__()
        try:
            yield
        finally:
            # Left as if without an error: DTensor (TensorFlow 2.20) would not restore the mesh
            # that was the default before.
            context.__exit__(None, None, None)


_current: list[Mesh] = []


def current() -> Mesh | None:
    """The mesh in use, or None outside `use`: layers then make ordinary variables."""
    return _current[-1] if _current else None


@contextlib.contextmanager
def use(mesh: Mesh):
    """Within it, layers lay their weights and activations out over `mesh`."""
    _current.append(mesh)
    try:
        with mesh.run():
            yield mesh
    finally:
        _current.pop()


def host():
    """Context in which eager ops run on the host, also inside `use`: reading data, metrics."""
    import tensorflow as tf

    return tf.device("/device:CPU:0")


def local_shards(value) -> list[tuple[tuple[slice, ...], object]]:
    """What the devices of this process hold of a DTensor, variable or tensor, replicas once.

    Returns:
      A pair for each shard: its place in the whole, and the tensor, on its device.
    """
    from tensorflow.experimental import dtensor

    value = _tensor(value)
    if not dtensor.is_dtensor(value):
        return [(tuple(slice(0, n) for n in value.shape), value)]
    shards = {}
    for place, part in zip(local_places(value), dtensor.unpack(value), strict=True):
        shards.setdefault(str(place), (place, part))
    return list(shards.values())


def local_places(value) -> list[tuple[slice, ...]]:
    """For each device of this process, the part of a DTensor or DVariable that it holds."""
    from tensorflow.experimental import dtensor

    layout = getattr(value, "layout", None) or dtensor.fetch_layout(value)
    sizes = {name: layout.mesh.dim_size(name) for name in layout.mesh.dim_names}
    specs = enumerate(layout.sharding_specs)
    rules = {str(i): name for i, name in specs if name != dtensor.UNSHARDED}
    axes = [str(i) for i in range(len(value.shape))]
    return Mesh(sizes, rules, layout.mesh).local_places(axes, value.shape)


def to_numpy(value) -> np.ndarray:
    """The global value of a DTensor, variable or tensor as one host array.

    Where this process lacks parts of it, they are sent, so all processes have to ask for it.
    """
    shards = local_shards(value)
    if sum(math.prod(part.shape) for _, part in shards) < math.prod(value.shape):
        shards = local_shards(_replicated(_tensor(value)))
    if len(shards) == 1:
        return shards[0][1].numpy()
    ends = [max(place[axis].stop for place, _ in shards) for axis in range(len(shards[0][0]))]
    whole = np.empty(ends, shards[0][1].dtype.as_numpy_dtype)
    for place, part in shards:
        whole[place] = part.numpy()
    return whole


def _replicated(value):
    """The DTensor, whole on every device."""
    from tensorflow.experimental import dtensor

    mesh = dtensor.fetch_layout(value).mesh
    return dtensor.relayout(value, dtensor.Layout.replicated(mesh, len(value.shape)))


def _tensor(value):
    """The value of a variable; a tensor as it is."""
    import keras
    import tensorflow as tf

    value = value.value if isinstance(value, keras.Variable) else value
    return value.read_value() if isinstance(value, tf.Variable) else value
