"""A pretend GPU: a device of PyTorch's own kind, `pretend`, whose tensors compute on the CPU but refuse to meet its
tensors, as a real GPU's do.

PyTorch lets a backend be written in Python under the name that it keeps for private devices. This one wraps a CPU
tensor; every operation is carried out on what is inside. So the package's own code runs on it unchanged, with true
numbers: loops that depend on data, backward, optimizers, checkpoints. What it does not have: CUDA's kernels and its
rounding, and its lists of what autocast computes in which type, of which only the matrix products are repeated here.

It must be set up before the process computes its first gradient, since autograd counts the devices once, and it
cannot be taken away again: use it in a process of its own.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
_COPIES = ("aten::copy_", "aten::_to_copy", "aten::_copy_from", "aten::index", "aten::index_put_",
           "aten::index_put", "aten::_index_put_impl_")
"""What may see tensors of two devices: copies, and indices, which a GPU fetches from the CPU by itself."""
_NAMED = ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "randperm", "copy_")
"""Operations registered by name beside the fallback for all. PyTorch makes ranges and the like by enlarging an empty
tensor, and a wrapper cannot grow; and `torch.tensor` copies where it has switched off all that is written in Python."""
_HALVED = ("conv2d", "conv_transpose2d.input", "linear", "matmul", "mm", "addmm", "bmm")
"""Computed in the type of autocast where it is on."""


class Pretend(torch.Tensor):
    """A tensor on the pretend device, around one on the CPU."""

    @staticmethod
    def __new__(cls, inside: torch.Tensor) -> Pretend:
        self = torch.Tensor._make_wrapper_subclass(
            cls, inside.shape, strides=inside.stride(), storage_offset=inside.storage_offset(), dtype=inside.dtype,
            device=f"{NAME}:0")
        self.inside = inside
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Pretend({self.inside})"

    def tolist(self) -> list:
        return self.inside.tolist()

    def __reduce_ex__(self, protocol):                     # a file that holds it is read where there is no such device
        return self.inside.__reduce_ex__(protocol)


def _mapped(function, value):
    """`function` on every tensor of a nest of lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, part) for part in value])
    if isinstance(value, dict):
        return {key: _mapped(function, part) for key, part in value.items()}
    return value


def _compute(func, args, kwargs):
    """Carry out an operation of which an argument or the result is on the pretend device."""
    ours, strangers, name = {}, [], func._schema.name

    def inside(tensor):
        if isinstance(tensor, Pretend):
            ours[id(tensor.inside)] = tensor
            return tensor.inside
        if tensor.ndim:                                    # a single number of the CPU may join
            strangers.append(tensor)
        return tensor

    device = kwargs.get("device")
    args, kwargs = _mapped(inside, args), _mapped(inside, kwargs if device is None else {**kwargs, "device": "cpu"})
    if ours and strangers and name not in _COPIES:
        raise RuntimeError(f"{func} meets a tensor {tuple(strangers[0].shape)} on the CPU and one on {NAME}")
    found = func(*args, **kwargs)
    to_cpu = device is not None and torch.device(device).type == "cpu"
    if to_cpu or (name == "aten::copy_" and id(args[0]) not in ours):
        return found
    # what works in place gives back the tensor that it was given
    return _mapped(lambda tensor: ours[id(tensor)] if id(tensor) in ours else Pretend(tensor), found)


def _operation(name: str):
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _by_name(name: str, *args, **kwargs) -> Pretend:
    return _compute(_operation(name), args, kwargs)


def _halving(name: str):
    """What autocast does to one operation: its arguments in the lower type, then the operation."""
    func = _operation(name)

    def halved(*args, **kwargs):
        kind = torch.get_autocast_dtype(NAME)
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return func(*_mapped(lambda t: t.to(kind) if t.dtype == torch.float32 else t, args), **kwargs)
    return halved


@functools.cache
def set_up() -> torch.device:
    """Make the device known to this process, once."""
    module = SimpleNamespace(is_initialized=lambda: True, is_available=lambda: True, current_device=lambda: 0,
                             device_count=lambda: 1, _is_in_bad_fork=lambda: False, manual_seed_all=lambda seed: None,
                             get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16])
    _setup_privateuseone_for_python_backend(NAME, module)
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(lambda func, *args, **kwargs: _compute(func, args, kwargs), "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in _NAMED:
        aten.impl(name, functools.partial(_by_name, name), "PrivateUse1")
    for name in _HALVED:
        aten.impl(name, _halving(name), "AutocastPrivateUse1")
    set_up.keep = everything, aten                         # what they registered ends with them
    return torch.device(NAME, 0)
