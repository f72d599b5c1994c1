"""Milliseconds of attention, forward and backward, over the number of tokens; a process of
`benchmarks.gpu`, or alone:

    python -m benchmarks.attention [--tokens 197 577]

Compared are the implementations of `cv_jax/models/attention.py` and cuDNN's kernel on tokens padded
to multiples of 1 (as they are), 2 and 64. `difference` is the relative distance of the gradients
from those of "xla" in float32.
"""

import argparse
import statistics
import time

from benchmarks import turns
from cv_jax.devices import start

# Tokens of a Swin window, of images with 8×8 patches, of 224 pixels with and without class token
# (16-pixel patches), of 384 and of 512 pixels → examples.
EXAMPLES = {197: 256, 577: 64, 49: 4096, 256: 128, 1025: 32, 64: 512}


def implementations(tokens: int) -> dict:
    """Return name → attention of [B, heads, T, head_dim] arrays."""
    import jax
    import jax.numpy as jnp

    from cv_jax.models.attention import attend

    def padded(multiple):
        more = -tokens % multiple

        def function(q, k, v):
            q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
            lengths = {}
            if more:
                q, k, v = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (q, k, v))
                count = jnp.full(len(q), tokens, jnp.int32)
                lengths = {"query_seq_lengths": count, "key_value_seq_lengths": count}
            out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn", **lengths)
            return jnp.swapaxes(out[:, :tokens], 1, 2)

        return function

    found = {
        "xla": lambda *x: attend(*x)[0],
        "cudnn": lambda *x: attend(*x, implementation="cudnn")[0],
    }
    multiples = [m for m in (1, 2, 64) if m == 1 or tokens % m]
    return found | {f"cudnn, multiple of {m}": padded(m) for m in multiples}


def measure(tokens: int, examples: int, dtype: str, heads: int = 12, head_dim: int = 64) -> dict:
    """Return milliseconds and differences, or the error, of every implementation."""
    import jax
    import jax.numpy as jnp

    shape = examples, heads, tokens, head_dim
    inputs = [jax.random.normal(jax.random.key(i), shape, dtype) for i in range(4)]
    functions = implementations(tokens)
    few = [x[:8].astype(jnp.float32) for x in inputs]

    def gradient(function):
        return jax.jit(lambda cotangent, *x: jax.vjp(function, *x)[1](cotangent))

    with jax.default_matmul_precision("highest"):
        exact = gradient(functions["xla"])(*few)
    row = {}
    for name, function in functions.items():
        try:
            run = gradient(function)
            found = jax.block_until_ready(run(*inputs))
            distances = [
                jnp.linalg.norm(a[:8].astype(jnp.float32) - b) / jnp.linalg.norm(b)
                for a, b in zip(found, exact, strict=True)
            ]
            times = []
            for _ in range(5):
                began = time.perf_counter()
                jax.block_until_ready([run(*inputs) for _ in range(5)])
                times.append((time.perf_counter() - began) / 5 * 1e3)
            row[name] = {
                "milliseconds": round(statistics.median(times), 4),
                "difference": round(float(max(distances)), 6),
            }
        except Exception as error:  # an implementation that refuses is a result, too
            row[name] = {"error": (str(error).splitlines() or [type(error).__name__])[0][:200]}
    return row


def main():
    """Measure every number of tokens and report it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=list(EXAMPLES))
    parser.add_argument("--examples", type=int, help="in a batch, for every number of tokens")
    parser.add_argument("--dtype", default="bfloat16")
    flags = parser.parse_args()
    start.load_jax()
    turns.hold_device()
    for tokens in flags.tokens:
        examples = flags.examples or EXAMPLES.get(tokens, 64)
        found = measure(tokens, examples, flags.dtype)
        turns.report(tokens=tokens, examples=examples, dtype=flags.dtype, implementations=found)


if __name__ == "__main__":
    main()
