"""Target, loss and reconstruction of facebookresearch/mae (`models_mae.py`) in NumPy, float64.

Images are [N, C, H, W], as there. Patches are [N, L, p·p·C]. `reconstruction` adds what the
official code leaves out: standardised predictions get mean and deviation of the image's patches.
"""

import numpy as np


def patchify(images: np.ndarray, p: int) -> np.ndarray:
    n, c, height, width = images.shape
    x = images.reshape(n, c, height // p, p, width // p, p)
    return np.einsum("nchpwq->nhwpqc", x).reshape(n, -1, p * p * c)


def unpatchify(patches: np.ndarray, p: int, grid: tuple[int, int]) -> np.ndarray:
    (n, _, size), (h, w) = patches.shape, grid
    x = np.einsum("nhwpqc->nchpwq", patches.reshape(n, h, w, p, p, size // p**2))
    return x.reshape(n, -1, h * p, w * p)


def target(images: np.ndarray, p: int, norm_pix_loss: bool) -> np.ndarray:
    patches = patchify(images, p)
    if norm_pix_loss:
        mean = patches.mean(axis=-1, keepdims=True)
        patches = (patches - mean) / (patches.var(axis=-1, keepdims=True, ddof=1) + 1e-6) ** 0.5
    return patches


def loss(images: np.ndarray, prediction: np.ndarray, mask: np.ndarray, p: int, norm: bool) -> float:
    error = ((prediction - target(images, p, norm)) ** 2).mean(axis=-1)
    return float((error * mask).sum() / mask.sum())


def masked_images(images: np.ndarray, mask: np.ndarray, p: int) -> np.ndarray:
    """The picture of the official demo: removed patches are 0."""
    c, grid = images.shape[1], (images.shape[2] // p, images.shape[3] // p)
    removed = np.repeat(mask[:, :, None], p * p * c, axis=2)
    return images * (1 - unpatchify(removed, p, grid))


def reconstruction(images: np.ndarray, prediction: np.ndarray, p: int, norm: bool) -> np.ndarray:
    if norm:
        patches = patchify(images, p)
        variance = patches.var(axis=-1, keepdims=True, ddof=1)
        prediction = prediction * (variance + 1e-6) ** 0.5 + patches.mean(axis=-1, keepdims=True)
    return unpatchify(prediction, p, (images.shape[2] // p, images.shape[3] // p))
