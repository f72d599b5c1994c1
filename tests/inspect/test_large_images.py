"""Attention maps of ViT-B/16 and Swin-T on images of 224 pixels need little memory."""

import json
import subprocess
import sys

import pytest

# Prints the seconds of the analysis and the peak of the memory in bytes.
SCRIPT = r"""
import json, re, sys, time
import jax, numpy as np
from cv_jax import models
from cv_jax.inspect import attention
model = models.create(sys.argv[1])
images = np.random.default_rng(0).standard_normal((8, 224, 224, 3)).astype(np.float32)
variables = jax.jit(model.init)(jax.random.key(0), images[:1])
began = time.monotonic()
found = attention.layers(model, variables, images)
for layer in found:
    attention.mean_distance(layer), attention.entropy(layer), attention.received(layer)
    for query in range(0, layer.shape[0] * layer.shape[1], 50):
        assert attention.place_maps(layer, query).shape[0] == 8
seconds = time.monotonic() - began
# Not `getrusage`: its peak includes the process that has started this one.
peak = int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"layers": len(found), "seconds": seconds, "peak": peak}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the memory from /proc")
@pytest.mark.parametrize("model", [pytest.param("vit_b16", marks=pytest.mark.long), "swin_t"])
def test_attention_of_eight_large_images(model):
    process = subprocess.run([sys.executable, "-c", SCRIPT, model], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["layers"] == 12
    assert found["peak"] < 4 * 2**30
    assert found["seconds"] < 60  # 30 on two free cores; here other tests run
