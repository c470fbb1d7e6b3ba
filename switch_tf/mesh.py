"""Meshes of devices, and layouts from axis names (paper, Sec. 5; Mesh-TensorFlow's layout rules).

A mesh is written `batch:4,model:2`. Layout rules are written `batch:batch,experts:batch,d_ff:model`
and map a tensor's axis names (left) to mesh dimensions (right). Tensor axes without a rule are
replicated. It is an error if two axes of a tensor map to the same mesh dimension.

A mesh may span several processes (DTensor's clients). *Global* refers to all its devices, *local*
to those of this process, listed in DTensor's order, which is that of `dtensor.pack`.

Parsing and checking need no TensorFlow, so that a wrong mesh is reported before TensorFlow starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from switch_tf import runtime
from switch_tf.errors import UserError

# All axis names that weights and activations may be declared with.
AXIS_NAMES = "batch length experts d_model d_ff heads d_kv vocab buckets".split()


def parse_pairs(text: str, what: str) -> list[tuple[str, str]]:
    """Splits `a:b,c:d` into pairs; `what` names the setting in errors.

    Raises:
      UserError: an item does not have exactly one colon, or a name occurs twice.
    """
    if not isinstance(text, str):
        raise UserError(f"{what}={text!r} is not a string: give it as 'name:value,...', in quotes")
    pairs = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, colon, value = (piece.strip() for piece in item.partition(":"))
        if not (name and colon and value) or ":" in value:
            raise UserError(f"{what}='{text}': '{item}' is not of the form name:value")
        if name in (seen for seen, _ in pairs):
            raise UserError(f"{what}='{text}': '{name}' appears twice; keep one")
        pairs.append((name, value))
    return pairs


def parse_mesh_shape(text: str) -> dict[str, int]:
    """Parses `batch:4,model:2` into mesh dimensions and sizes, in order.

    Raises:
      UserError: the text is not a list of name:size with positive sizes.
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
    """Parses `batch:batch,d_ff:model` into axis name -> mesh dimension.

    A rule whose mesh dimension does not exist is an error, as it would silently replicate.

    Raises:
      UserError: an axis name or a mesh dimension does not exist.
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
                f"LAYOUT_RULES='{text}': the mesh has no dimension '{dimension}'; it has "
                f"{', '.join(mesh_shape)}: name it so in MESH_SHAPE, or set LAYOUT_RULES, too"
            )
        rules[axis] = dimension
    return rules


def check_divides(
    rules: dict[str, str], mesh_shape: dict[str, int], sizes: dict[str, tuple[int, str]]
) -> None:
    """Checks that each axis size is divisible by the size of its mesh dimension.

    Args:
      rules: axis name -> mesh dimension.
      mesh_shape: mesh dimension -> size.
      sizes: axis name -> (size, name of the setting it comes from).

    Raises:
      UserError: a size is not divisible; names the setting, the sizes and the mesh dimension.
    """
    for axis, (size, setting) in sizes.items():
        ways = mesh_shape.get(rules.get(axis, ""), 1)
        if size % ways:
            raise UserError(
                f"{setting}={size} is not divisible by the {ways} devices of mesh dimension "
                f"'{rules[axis]}': change {setting}, MESH_SHAPE or LAYOUT_RULES"
            )


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices arranged in named dimensions, with the rules that shard tensors over them.

    Attributes:
      shape: mesh dimension -> size.
      rules: tensor axis name -> mesh dimension.
      dtensor_mesh: the `tf.experimental.dtensor.Mesh`; None on paper.
    """

    shape: dict[str, int]
    rules: dict[str, str]
    dtensor_mesh: object

    @classmethod
    def create(cls, mesh_shape: str, layout_rules: str = "") -> Mesh:
        """Creates the mesh from the first devices of each process, of the process's device type.

        On TPU it has all devices, in an order in which neighbours in it are near in the torus.

        Raises:
          UserError: the text is malformed, there are too few devices, or on TPU too many, or the
            processes do not divide the size of the mesh.
        """
        from tensorflow.experimental import dtensor

        mesh = cls.on_paper(mesh_shape, layout_rules)
        kind, processes = runtime.device_type(), dtensor.num_clients()
        there = dtensor.num_global_devices(kind)
        # A mesh over missing devices crashes the process, so count devices first.
        if mesh.size > there or kind == "TPU" and mesh.size < there:
            mend = f"give sizes whose product is {there}" if kind == "TPU" else "make it smaller"
            raise UserError(
                f"MESH_SHAPE='{mesh_shape}' needs {mesh.size} {kind} devices, but there are "
                f"{there}: {mend}"
            )
        if mesh.size % processes:
            raise UserError(
                f"MESH_SHAPE='{mesh_shape}' has {mesh.size} devices, which {processes} hosts "
                "cannot share: make it a multiple of them"
            )
        if kind == "TPU":
            made = _tpu_mesh(mesh.shape)
        else:
            devices = [f"{kind}:{i}" for i in range(mesh.size // processes)]
            dimensions = list(mesh.shape.items())
            made = dtensor.create_distributed_mesh(
                dimensions, local_devices=devices, device_type=kind
            )
        return cls(mesh.shape, mesh.rules, made)

    @classmethod
    def on_paper(cls, mesh_shape: str, layout_rules: str = "") -> Mesh:
        """A mesh of any size without devices, which tells where shards would be.

        Raises:
          UserError: the text is malformed.
        """
        shape = parse_mesh_shape(mesh_shape)
        return cls(shape, parse_layout_rules(layout_rules, shape), None)

    @property
    def size(self) -> int:
        """Number of devices."""
        return math.prod(self.shape.values())

    def ways(self, axis: str) -> int:
        """Number of shards that `axis` is split into."""
        return self.shape.get(self.rules.get(axis, ""), 1)

    def spec(self, axes: Sequence[str | None]) -> list[str]:
        """Mesh dimension of each axis, or `dtensor.UNSHARDED` if replicated.

        Raises:
          UserError: two axes map to the same mesh dimension.
        """
        from tensorflow.experimental import dtensor

        spec = [self.rules.get(axis, dtensor.UNSHARDED) for axis in axes]
        used = [dimension for dimension in spec if dimension != dtensor.UNSHARDED]
        if len(set(used)) < len(used):
            raise UserError(
                f"LAYOUT_RULES map two axes of a tensor {tuple(axes)} to the same mesh dimension, "
                f"{spec}: remove one of the two rules"
            )
        return spec

    def layout(self, axes: Sequence[str | None]):
        """`dtensor.Layout` of a tensor with these axis names."""
        from tensorflow.experimental import dtensor

        return dtensor.Layout(self.spec(axes), self.dtensor_mesh)

    def global_places(
        self, axes: Sequence[str | None], shape: Sequence[int]
    ) -> list[tuple[slice, ...]]:
        """The shard of each device, as slices of the global tensor, in the order of the mesh.

        Raises:
          UserError: an axis is not divisible by the size of its mesh dimension.
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
        """The shard of each device of this process; see `global_places`. In DTensor's order."""
        every = self.global_places(axes, shape)
        return [every[device] for device in self.dtensor_mesh.local_device_ids()]

    def pack(self, value: np.ndarray, axes: Sequence[str | None]):
        """Makes a DTensor from a host array; each device gets its shard.

        Args:
          value: the global array, of which a process reads only its devices' shards.
          axes: an axis name for each dimension.
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
            # Exit as if there were no error: otherwise DTensor (TensorFlow 2.20) would not restore
            # the previous default mesh.
            context.__exit__(None, None, None)


def _tpu_mesh(shape: dict[str, int]):
    """A mesh of all TPU devices, whose neighbours are as near in the torus as DTensor can have it.

    The dimensions behind the first exchange most, in all-reduces of each layer, and so are of
    adjacent chips. The first, over which batch and experts are split, goes from one such group to
    the next.
    """
    from tensorflow.experimental import dtensor

    return dtensor.create_tpu_mesh(
        list(shape),
        list(shape.values()),
        # DTensor's own name has the time in it, which differs between hosts.
        mesh_name="_".join(f"{name}_{size}" for name, size in shape.items()),
        ring_dims=1 if len(shape) == 1 else 1 - len(shape),
        build_ring_across_rings=len(shape) > 1,
    )


_current: list[Mesh] = []


def current() -> Mesh | None:
    """The mesh in use; None outside `use`, where layers create ordinary variables."""
    return _current[-1] if _current else None


@contextlib.contextmanager
def use(mesh: Mesh):
    """Context in which layers shard their weights and activations over `mesh`."""
    _current.append(mesh)
    try:
        with mesh.run():
            yield mesh
    finally:
        _current.pop()


def host():
    """Context in which eager ops run on the host, even inside `use`: for data and metrics."""
    import tensorflow as tf

    return tf.device("/device:CPU:0")


def local_shards(value) -> list[tuple[tuple[slice, ...], object]]:
    """The shards of a DTensor, variable or tensor on this process's devices, without replicas.

    Returns:
      A pair for each shard: its slices of the global tensor, and the tensor on its device.
    """
    from tensorflow.experimental import dtensor

    value = _tensor(value)
    if not dtensor.is_dtensor(value):
        return [(tuple(slice(0, n) for n in value.shape), value)]
    shards = {}
    for place, part in zip(local_places(value), dtensor.unpack(value), strict=True):
        shards.setdefault(str(place), (place, part))
    return list(shards.values())


def own_shards(value) -> list[tuple[tuple[slice, ...], object]]:
    """Those of `local_shards` that this process is to save: each shard is of one process only.

    Copies are of the first device that holds one, and what is on no mesh is of the chief.
    """
    from tensorflow.experimental import dtensor

    tensor = _tensor(value)
    if not dtensor.is_dtensor(tensor):
        return local_shards(tensor) if runtime.is_chief() else []
    layout = dtensor.fetch_layout(tensor)
    first = {}
    for device, place in enumerate(_mesh_of(layout).global_places(*_named(tensor))):
        first.setdefault(str(place), device)
    local = set(layout.mesh.local_device_ids())
    return [shard for shard in local_shards(tensor) if first[str(shard[0])] in local]


def local_places(value) -> list[tuple[slice, ...]]:
    """The slices of a DTensor or DVariable that each device of this process holds."""
    from tensorflow.experimental import dtensor

    layout = getattr(value, "layout", None) or dtensor.fetch_layout(value)
    return _mesh_of(layout).local_places(*_named(value))


def _mesh_of(layout) -> Mesh:
    """The mesh of a layout, with a rule for each axis that it shards, by the axis's number."""
    from tensorflow.experimental import dtensor

    sizes = {name: layout.mesh.dim_size(name) for name in layout.mesh.dim_names}
    specs = enumerate(layout.sharding_specs)
    rules = {str(i): name for i, name in specs if name != dtensor.UNSHARDED}
    return Mesh(sizes, rules, layout.mesh)


def _named(value) -> tuple[list[str], Sequence[int]]:
    """The axes of `_mesh_of`, and the shape of a value."""
    return [str(i) for i in range(len(value.shape))], value.shape


def to_numpy(value) -> np.ndarray:
    """The global value of a DTensor, variable or tensor as one host array.

    Shards that this process lacks are fetched from others, so all processes must call it.
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
    """The DTensor, replicated on all devices."""
    from tensorflow.experimental import dtensor

    mesh = dtensor.fetch_layout(value).mesh
    return dtensor.relayout(value, dtensor.Layout.replicated(mesh, len(value.shape)))


def _tensor(value):
    """The value of a variable; returns a tensor as it is."""
    import keras
    import tensorflow as tf

    value = value.value if isinstance(value, keras.Variable) else value
    return value.read_value() if isinstance(value, tf.Variable) else value
