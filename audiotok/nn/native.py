"""native.cpp, compiled for this machine when it is first needed; where that cannot be, one warning says so and PyTorch computes instead."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import warnings
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from pathlib import Path

from torch import Tensor

from audiotok.files import whole_file

LANES = 16  # of native.cpp: widths are multiples of it
SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC"]
COMPILERS = ("c++", "g++", "clang++")


class Matrix(ctypes.Structure):
    _fields_ = [("weight", c_void_p), ("scale", c_void_p), ("rows", c_int64), ("width", c_int64)]


class Block(ctypes.Structure):
    _fields_ = [
        ("attention_norm", c_void_p),
        ("input", Matrix),
        ("output", Matrix),
        ("feed_forward_norm", c_void_p),
        ("gate_up", Matrix),
        ("down", Matrix),
    ]


class Model(ctypes.Structure):
    _fields_ = [
        ("layers", c_int64),
        ("width", c_int64),
        ("heads", c_int64),
        ("hidden", c_int64),
        ("epsilon", c_float),
        ("blocks", POINTER(Block)),
        ("norm", c_void_p),
    ]


class Cache(ctypes.Structure):
    _fields_ = [
        ("keys", c_void_p),
        ("values", c_void_p),
        ("lengths", c_void_p),
        ("rows", c_int64),
        ("capacity", c_int64),
        ("cosines", c_void_p),
        ("sines", c_void_p),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None after a warning that says why there are none."""
    try:
        loaded = ctypes.CDLL(str(_compiled()))
    except OSError as error:
        warnings.warn(f"native.cpp is not compiled, decoding is as slow as PyTorch's own operations: {error}", stacklevel=2)
        return None
    for kind in ("fp32", "bf16", "int8"):
        step, product = getattr(loaded, f"step_{kind}"), getattr(loaded, f"product_{kind}")
        step.argtypes = [c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_int]
        product.argtypes = [c_void_p, c_void_p, c_int64, c_void_p, c_int]
        step.restype = product.restype = None
    return loaded


def address(tensor: Tensor) -> int:
    """Where a tensor's memory starts; it must be contiguous and outlive the use."""
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    return tensor.data_ptr()


def _compiled() -> Path:
    """The library's path, compiled once for each kind of processor, compiler and source."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))), None)
    if compiler is None:
        raise OSError(f"no compiler found ({', '.join(COMPILERS)}, or what CXX names)")
    key = "\n".join([SOURCE.read_text(encoding="utf-8"), compiler, *FLAGS, _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audiotok"
    path = folder / f"native-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        with whole_file(path) as partial:
            done = subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(partial)], capture_output=True, text=True)
            if done.returncode:
                raise OSError(f"{compiler} says {done.stderr.strip()[-300:]!r}")
    return path


def _processor() -> str:
    """What tells processors apart for which -march=native means different instructions: a home folder may be shared among machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
