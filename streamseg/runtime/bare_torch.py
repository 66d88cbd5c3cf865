"""Torch without its Python part: the C++ library, and names for what it wants to find in Python.

ExecuTorch's extension module takes and returns tensors, so torch's extension ``torch._C`` must be
there and know a class for them. The Python package around it, over 700 modules of training,
compilers and distribution, is of no use to a model process: with it the import takes 0.55 s and
the process 205 MB, without it 0.17 s and 140 MB. Numpy is left out as well.

The kernels are the same ones, so what they compute is the same to the last bit. What the C++ side
looks up in Python while it starts was read from its sources for one version, and ``load`` refuses
all others: the caller then imports torch whole, in a new process, for what is half made here
cannot be taken back.

Source:
    PyTorch, torch/csrc/Module.cpp (``THPModule_initExtension``), torch/csrc/autograd/init.cpp
    (``THPAutograd_initExtension``), torch/csrc/tensor/python_tensor.cpp.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from types import ModuleType

__all__ = ["load"]

_VERSION = "2.13."

# What C++ asks for by name: classes that it only keeps or compares types with.
_CLASSES = {
    "torch": ("FloatStorage", "SymBool", "SymFloat", "SymInt"),
    "torch.autograd": ("Function",),
    "torch.autograd.graph": ("GradientEdge",),
    "torch.cuda": (),
    "torch.cuda.sparse": (),
    "torch.fx": (),
    "torch.fx.experimental": (),
    "torch.fx.experimental.sym_node": ("DynamicInt",),
    "torch.nn": (),
    "torch.nn.parameter": (),
    "torch.sparse": (),
    "torch.storage": ("TypedStorage",),
    "torch._tensor": (),
}


def load() -> ModuleType:
    """Put a ``torch`` that has tensors and their functions into ``sys.modules``, and return it.

    Raises:
        Exception: Of any kind, if this torch is not what is known here. No other torch can be
            imported in this process any more.
    """
    if sys.platform != "linux":
        raise ImportError("known on Linux only")
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise ImportError("torch is not installed")
    folder = os.path.dirname(spec.origin)
    _check_version(os.path.join(folder, "version.py"))
    torch = ModuleType("torch")
    torch.__file__, torch.__spec__, torch.__path__ = spec.origin, spec, [folder]
    sys.modules["torch"] = torch
    # Loaded first and for all, as torch does it: OpenMP, and in some builds the CUDA libraries.
    ctypes.CDLL(os.path.join(folder, "lib", "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
    # Torch takes this for "not installed".
    sys.modules["numpy"] = None  # type: ignore[assignment]
    core = importlib.import_module("torch._C")
    _make_classes(torch, core)
    core._initExtension(os.path.join(folder, "bin", "torch_shm_manager"))
    if not core._autograd_init():
        raise ImportError("torch._C does not start")
    functions = core._VariableFunctions
    for name in dir(functions):
        if not name.startswith("_"):
            setattr(torch, name, getattr(functions, name))
    torch.set_num_threads = core.set_num_threads  # type: ignore[attr-defined]
    return torch


def _check_version(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if f"__version__ = '{_VERSION}" not in text:
        raise ImportError(f"this torch is not version {_VERSION}*")


def _make_classes(torch: ModuleType, core: ModuleType) -> None:
    for module_name, class_names in _CLASSES.items():
        module = sys.modules.get(module_name)
        if module is None:
            module = sys.modules[module_name] = ModuleType(module_name)
            parent, _, leaf = module_name.rpartition(".")
            setattr(sys.modules[parent], leaf, module)
        for class_name in class_names:
            setattr(module, class_name, type(class_name, (), {"__module__": module_name}))
    # ExecuTorch knows a tensor by the printed name of its class.
    tensor = type("Tensor", (core.TensorBase,), {"__module__": "torch"})
    sys.modules["torch._tensor"].Tensor = torch.Tensor = tensor  # type: ignore[attr-defined]
    sys.modules["torch.nn.parameter"].Parameter = type(  # type: ignore[attr-defined]
        "Parameter", (tensor,), {"__module__": "torch.nn.parameter"}
    )
    torch.UntypedStorage = type(  # type: ignore[attr-defined]
        "UntypedStorage", (core.StorageBase,), {"__module__": "torch"}
    )
    torch._tensor_classes = set()  # type: ignore[attr-defined]
