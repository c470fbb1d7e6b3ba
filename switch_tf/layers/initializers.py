"""Initial weights that depend only on the seed, the weight's name and the element's global index.

Each device computes its shard from the shard's place in the global tensor. So a seed gives the
same model on every mesh, bit for bit, and no device ever holds the whole of a sharded weight.
"""

import dataclasses
import hashlib
import math

import numpy as np
from scipy import special

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele, Lea, Flood, 2014), on uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, name: str, shape: tuple[int, ...], part: tuple[slice, ...]) -> np.ndarray:
    """Uniform (0, 1) float64 numbers for one part of a tensor.

    Args:
      seed: the model's seed.
      name: the weight's name; different names give independent numbers.
      shape: global shape of the tensor.
      part: which part of it, as one slice per axis.
    """
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    counter = np.zeros([1] * len(shape), np.uint64)
    for axis, (size, piece) in enumerate(zip(shape, part, strict=True)):
        index = np.arange(*piece.indices(size), dtype=np.uint64)
        index = index.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        counter = counter * np.uint64(size) + index
    with np.errstate(over="ignore"):
        mixed = _mix(np.uint64(int.from_bytes(digest, "little")) + counter * _GOLDEN_GAMMA)
    # The upper 53 bits, shifted off zero so that the inverse distribution function stays finite.
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


@dataclasses.dataclass(frozen=True)
class TruncatedNormal:
    """Normal values of mean 0, truncated at two standard deviations by resampling.

    The paper (Sec. 2.4) sets stddev = sqrt(s / n) with fan-in n and s = 0.1 instead of 1.0. As in
    the paper and in Mesh-TensorFlow, `stddev` is that of the normal distribution before truncation.
    """

    stddev: float

    @classmethod
    def fan_in(cls, scale: float, fan_in: int) -> "TruncatedNormal":
        """stddev = sqrt(scale / fan_in)."""
        return cls(math.sqrt(scale / fan_in))

    def __call__(self, seed, name, shape, part) -> np.ndarray:
        """Returns float32 values for one part of a weight; same arguments as `uniform`."""
        low, high = special.ndtr(-2.0), special.ndtr(2.0)
        values = special.ndtri(low + (high - low) * uniform(seed, name, shape, part))
        return (values * self.stddev).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal values of mean 0 and standard deviation `stddev`, not truncated (T5's embedding)."""

    stddev: float

    def __call__(self, seed, name, shape, part) -> np.ndarray:
        """Returns float32 values for one part of a weight; same arguments as `uniform`."""
        return (special.ndtri(uniform(seed, name, shape, part)) * self.stddev).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class GlorotUniform:
    """Uniform values within ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""

    fan_in: int
    fan_out: int

    def __call__(self, seed, name, shape, part) -> np.ndarray:
        """Returns float32 values for one part of a weight; same arguments as `uniform`."""
        limit = math.sqrt(6.0 / (self.fan_in + self.fan_out))
        return ((2.0 * uniform(seed, name, shape, part) - 1.0) * limit).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same value for all elements."""

    value: float

    def __call__(self, seed, name, shape, part) -> np.ndarray:
        """Returns float32 values for one part of a weight; same arguments as `uniform`."""
        sizes = [len(range(*p.indices(n))) for n, p in zip(shape, part, strict=True)]
        return np.full(sizes, self.value, np.float32)
