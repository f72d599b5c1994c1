"""The order of the examples of a large split, for many positions at once.

Grain maps one position of the stream to an example at a time. Here the permutations of
`grain.MapDataset.range(size).seed(seed).shuffle().repeat()` are computed for arrays of positions. A
permutation is a Simon block cipher with four rounds (Beaulieu et al., 2013,
eprint.iacr.org/2013/404), applied until the result lies in the split (Black and Rogaway, 2002).
"""

import numpy as np

ROUNDS = 4
SMALLEST_BLOCK = 16  # bits
# Splits of fewer examples need many applications, for which Grain's compiled loop is faster.
SMALLEST_SPLIT = 2**14


def shuffled(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the index of the example at each position of the stream, int64.

    Args:
      positions: integers [N] of at least 0; epoch e has the positions e·size … (e + 1)·size − 1.
      size: number of examples; any, but small ones are slow.
      seed: the seed of the run.
    """
    # Grain derives the seed of an operation from that of the stream and from the place of the
    # operation, here 1, in the chain of operations.
    first = int(np.random.SeedSequence((seed, 1)).generate_state(1, np.uint32)[0])
    positions = np.asarray(positions, np.int64)
    indices = np.empty_like(positions)
    for epoch in np.unique(positions // size):
        own = positions // size == epoch
        indices[own] = _permuted(positions[own] % size, size - 1, (first + int(epoch)) % 2**32)
    return indices


def _permuted(indices: np.ndarray, last: int, seed: int) -> np.ndarray:
    """Apply the permutation of 0…last with this seed."""
    if not last:
        return np.zeros_like(indices)
    bits = int(np.ceil(np.log2(last)))
    word = max(bits + bits % 2, SMALLEST_BLOCK) // 2
    keys = [key & (2**word - 1) for key in _keys(seed)]
    indices = _encrypted(indices, word, keys)
    while (outside := indices > last).any():
        indices[outside] = _encrypted(indices[outside], word, keys)
    return indices


def _encrypted(values: np.ndarray, word: int, keys: list[int]) -> np.ndarray:
    """Encrypt numbers of 2·word bits by the Simon cipher."""
    mask = 2**word - 1

    def mixed(x):
        turned = {n: (x << n | x >> (word - n)) & mask for n in (1, 2, 8)}
        return turned[1] & turned[8] ^ turned[2]

    left, right = values >> word & mask, values & mask
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        left = left ^ mixed(right) ^ first
        right = right ^ mixed(left) ^ second
    return left << word | right


def _keys(seed: int) -> list[int]:
    """Return the `ROUNDS` numbers of C++'s `std::seed_seq{seed}`, [rand.util.seedseq]."""
    n, out = ROUNDS, [0x8B8B8B8B] * ROUNDS
    t = (n - 1) // 2
    p = (n - t) // 2
    q = p + t
    for k in range(2 * n):
        here, near, far = k % n, (k + p) % n, (k + q) % n
        if k < n:
            a = 1664525 * _folded(out[here] ^ out[near] ^ out[k - 1 if k else -1])
            b = a + (1 if k == 0 else k + seed * (k == 1))
            out[near], out[far] = (out[near] + a) % 2**32, (out[far] + b) % 2**32
        else:
            a = 1566083941 * _folded((out[here] + out[near] + out[here - 1]) % 2**32)
            b = a - here
            out[near], out[far] = out[near] ^ a % 2**32, out[far] ^ b % 2**32
        out[here] = b % 2**32
    return out


def _folded(x: int) -> int:
    return x ^ x >> 27
