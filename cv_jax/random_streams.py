"""Named random streams: a draw is a function of seed, stream name, step and position."""

import zlib

import jax


def stream_key(seed: int, name: str, step: jax.Array, impl: str = "threefry2x32") -> jax.Array:
    """The key of a random stream at a step.

    Callers fold in the position of an example in the global batch, so that a draw depends on
    neither the number of devices nor the number of hosts.

    Args:
      seed: the run's seed.
      name: name of the stream, such as "dropout".
      step: number of updates made before this step, int32.
      impl: random generator of the key.
    """
    root = jax.random.key(seed, impl=impl)
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)
