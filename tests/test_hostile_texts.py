"""Texts that nest deeply, backtrack, or state sizes that do not exist: one line, in little time.

The texts are values of config fields, JSON, and headers of weight files. The limits are 2 s and
500 MB for each.
"""

import io
import json
import re
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax import __main__ as program  # noqa: E402
from cv_jax import paths  # noqa: E402
from cv_jax.data import records  # noqa: E402
from cv_jax.errors import InputError, one_line  # noqa: E402
from cv_jax.interop import pretrained, saved  # noqa: E402
from cv_jax.optim import parameter_rules  # noqa: E402
from cv_jax.sweep import folder as folders  # noqa: E402

SECONDS, MEBIBYTES = 2, 500
DEEP = ["[" * 10**5, '{"a":' * 10**5, "[" * 10**5 + "]" * 10**5]


def memory(name):
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.fixture(scope="module")
def imported(data_dir, tmp_path_factory):
    """What the commands import on first use is no part of the limits."""
    flags = ["--config", f"{ROOT}/configs/mlp.py", f"--config.data.dir={data_dir}"]
    assert launch.run([*flags, "--config.augment=(", "--dry_run"]) == 2
    assert program.main(["predict", str(tmp_path_factory.mktemp("empty")), f"{ROOT}/docs"]) == 2


@pytest.fixture(autouse=True)
def limits(imported):
    linux = sys.platform == "linux"
    if linux:
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        before = memory("VmRSS")
    start = time.process_time()  # other tests share the processor
    yield
    assert time.process_time() - start < SECONDS
    if linux:
        assert memory("VmHWM") - before < MEBIBYTES


# ---- Values of config fields

FIELDS = ["augment", "eval_preprocess", "model.widths", "optim.rules", "data.train_split"]
FIELDS += ["optim.weight_decay", "image_size", "eval.extra", "data.mean"]


@pytest.mark.parametrize("field", FIELDS)
def test_nested_brackets_are_one_line(field, data_dir, capsys):
    for text in ("(", "[", "{", "crop(", "-", "not ", "(1,"):
        flags = ["--config", f"{ROOT}/configs/mlp.py", f"--config.data.dir={data_dir}"]
        flags += [f"--config.{field}={text * 3000}", "--dry_run"]
        assert launch.run(flags) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert len(err) < 1100


@pytest.mark.parametrize("pattern", ["(.+)+x", "(([a-z0-9/_]+)*)*!", "(.*)*(.*)*(.*)*z"])
def test_a_pattern_that_backtracks_for_ever_is_one_line(pattern):
    rule = parameter_rules.parse_rule(f"{pattern}: freeze")
    names = [f"blocks_{i}/attention/query_key_value/kernel_of_the_layer" for i in range(99)]
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(InputError, match="takes too long to match"):
        parameter_rules._matching(rule, names)
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert parameter_rules._matching(parameter_rules.parse_rule(".*7/.*: freeze"), names)


@pytest.mark.parametrize("pattern", ["(" * 3000 + ")" * 3000, "(" * 3000, "a{99999999999999}"])
def test_a_pattern_that_cannot_be_compiled_is_one_line(pattern):
    with pytest.raises(InputError, match=r"config.optim.rules"):
        parameter_rules.parse_rule(f"{pattern}: freeze")


# ---- JSON


@pytest.mark.parametrize("text", [*DEEP, " " * (paths.JSON_BYTES + 1), "\xff", ""])
def test_bad_json_is_a_value_error(text, tmp_path):
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=".") as caught:
        paths.read_json(tmp_path / "x.json")
    assert len(str(caught.value)) < 200


INDEX = {
    "finished": True,
    "splits": {"train": [{"file": "s", "count": 1, "sha256": "0"}]},
    "labels": {"train": "0"},
    "num_classes": 2,
    "channels": 3,
    "classes": ["a", "b"],
}
CHANGES = [{key: value} for key in INDEX for value in (None, 5, "x", [1], {"a": 1}, -1)]
CHANGES = [c for c in CHANGES if c not in ({"classes": None}, {"num_classes": 5}, {"channels": 5})]
CHANGES += [{"splits": {"train": [{"file": "../s", "count": 1, "sha256": "0"}]}}]
CHANGES += [{"splits": {"train": [{"file": "s", "count": 2**62, "sha256": "0"}]}}]


@pytest.mark.parametrize("change", [c for c in CHANGES if "finished" not in c], ids=str)
def test_a_wrong_index_of_records_is_one_line(change, tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({**INDEX, **change}))
    with pytest.raises(InputError, match=r"index.json is damaged|labels.npy") as caught:
        records.open_records("records:x", tmp_path, "train")
    assert len(one_line(caught.value)) < 600


@pytest.mark.parametrize("text", [*DEEP, "[1]", '"a"', "5", "", "{}"])
def test_records_and_sweeps_with_bad_json_are_one_line(text, tmp_path):
    for name, read in (("index.json", records.read_index), ("sweep.json", folders.read)):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name}|incomplete"):
            read(tmp_path)


def test_the_point_of_a_sweep_stays_in_its_folder(tmp_path):
    for name in ("../x", "/tmp/x", "a/b", "..", ""):
        point = {"name": name, "overrides": {}, "arguments": {}}
        stored = {"config": "c", "argument": "", "overrides": {}, "points": [point]}
        (tmp_path / "sweep.json").write_text(json.dumps(stored))
        with pytest.raises(InputError, match="sweep.json: the name of a point"):
            folders.read(tmp_path)


# ---- Weights


def safetensors(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def one(dtype="F32", shape=(1,), offsets=(0, 4), **metadata):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return safetensors({"a": entry, **metadata}, bytes(16)[: max(0, offsets[1])])


def cv_jax(facts):
    return one(
        __metadata__={saved.METADATA: facts if isinstance(facts, str) else json.dumps(facts)}
    )


def npy(shape, descr="<f4", data=b""):
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + data


def npz(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    return buffer.getvalue()


OVERLAP = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
}
FACTS = {"format": 2, "version": "0", "source": "", "model": "mlp", "image_size": [8, 8]}
FACTS |= {"fields": {}, "channels": 3, "preprocessing": {}, "evaluation": {}}
WEIGHTS = {
    "empty.safetensors": b"",
    "short.safetensors": b"abc",
    "header of exabytes.safetensors": safetensors(b"{}", size=2**62),
    "header of gigabytes.safetensors": safetensors(b"{}", size=8 * 2**30),
    "negative offset.safetensors": one(offsets=(-4, 0)),
    "overlap.safetensors": safetensors(OVERLAP, bytes(12)),
    "beyond the end.safetensors": one(shape=(10**9,), offsets=(0, 4 * 10**9)),
    "overflow.safetensors": one(shape=(2**40, 2**40), offsets=(0, 8)),
    "negative shape.safetensors": one(shape=(-1,)),
    "unknown type.safetensors": one("X"),
    "float8.safetensors": one("F8_E4M3", (4,)),
    "float4.safetensors": one("F4", (8,)),
    "nested.safetensors": safetensors(DEEP[0].encode()),
    "list.safetensors": safetensors(b"[]"),
    "zeros.safetensors": bytes(50),
    "bytes.safetensors": safetensors(b'{"\xff":1}'),
    "metadata number.safetensors": one(__metadata__={"a": 5}),
    "metadata text.safetensors": one(__metadata__="x"),
    "record nested.safetensors": cv_jax(DEEP[0]),
    "record list.safetensors": cv_jax("[]"),
    "record empty.safetensors": cv_jax("{}"),
    "record no text.safetensors": cv_jax("\xff"),
    "nested.safetensors.index.json": DEEP[0].encode(),
    "objects.safetensors.index.json": DEEP[1].encode(),
    "number.safetensors.index.json": b'{"weight_map": {"a": 5}}',
    "self.safetensors.index.json": b'{"weight_map": {"a": "self.safetensors.index.json"}}',
    "above.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}',
    "terabytes.npz": npz(npy((10**12,))),
    "gigabytes.npz": npz(npy((10**9,))),
    "pickle.npz": npz(npy((1,), "|O", b"cos\nsystem\n(S'true'\ntR.")),
    "negative.npz": npz(npy((-1,))),
    "header.npz": npz(b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31) + b"x"),
    "nested header.npz": npz(b"\x93NUMPY\x01\0" + struct.pack("<H", 60000) + b"(" * 60000),
    "no archive.npz": b"PK\x03\x04xx",
    "no array.npz": npz(b"hello"),
    "structure.npz": npz(npy((1,), [("x", "<f4")], bytes(4))),
}
WEIGHTS |= {
    f"record {key} {i}.safetensors": cv_jax({**FACTS, key: value})
    for key in FACTS
    for i, value in enumerate((None, -5, "\x1b[2J", [[]], {"x": {"y": 1}}))
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_malformed_weights_are_one_line(name, tmp_path, capsys):
    file = tmp_path / name
    file.write_bytes(WEIGHTS[name])
    code = program.main(["predict", str(file), str(ROOT / "docs" / "imports.svg")])
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    assert all(c.isprintable() or c == "\n" for c in err)


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_not_unpacked(tmp_path):
    file = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(npy((2**26,)))
        for _ in range(32):
            entry.write(bytes(2**23))
    with pytest.raises(InputError, match="would take 268,435,"):
        pretrained.read(str(file), print)


# ---- Hosts

NETWORK = """
import socket, sys
asked = []
def refuse(*arguments, **options):
    asked.append(arguments)
    raise OSError("no network")
socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
import launch
for name in sys.argv[2:]:
    flags = ["--config", "configs/mlp.py", f"--config.data.dir={sys.argv[1]}", "--dry_run"]
    assert launch.run([*flags, f"--config.data.name={name}"]) == 2, name
assert not asked, asked
"""


def test_no_name_of_a_dataset_asks_a_host(tmp_path):
    names = ["huggingface:mnist", "huggingface:a/b", "kaggle:x", "mlcroissant:x", "ns:name"]
    names += ["http://h/x", "gs://b/x", "s3://b/x", "records:gs://b", "folder:http://x", "hf:x"]
    names += ["huggingface", "mnist", "mnist:3.0.1", "huggingface:mnist:1.0.0"]
    words = [sys.executable, "-c", NETWORK, str(tmp_path), *names]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(names)
    assert all(line.startswith("error: ") for line in lines)
