"""A GPU that is not there: torch's fake tensors, which have shapes, types and a device, and no values.

An operation on tensors of two devices fails, and so does one that needs values (`nonzero`, an index of booleans). What
a GPU would be waited for, or that is copied to it, is written down. No GPU is needed, nor a torch that knows one.
"""

import warnings
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default)


class FakeDevice(TorchDispatchMode):
    """What happens between the CPU and a fake device.

    Attributes
    ----------
    log : ``up`` and ``down`` for each copy to the device and back, ``wait`` for each number that was asked of it
    """

    def __init__(self, kind: str, mode: FakeTensorMode) -> None:
        super().__init__()
        self.kind, self.log = kind, []
        self._memo = mode.fake_tensor_converter.meta_converter.tensor_memo

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            # Only torch's C++ asks here. Its autograd looks for a thread of the device, of which there is none, and
            # runs what is on "meta" in the thread that calls it.
            return torch.device("meta") if self._owns(args[0]) else args[0].fake_device
        if getattr(kwargs.get("device"), "type", None) == "meta":
            kwargs["device"] = torch.device(self.kind)
        if func.namespace == "c10d":
            assert all(self._owns(one) for one in tree_leaves(args) if isinstance(one, torch.Tensor)), func
        if func is torch.ops.aten._local_scalar_dense.default and self._owns(args[0]):
            self.log.append("wait")
            return 1.0
        # A number that lies on the CPU is otherwise told with the operation, as a GPU takes it.
        copies = func is torch.ops.aten._to_copy.default
        given = tree_leaves((args, kwargs))
        if func in _INDEXING and self._owns(args[0]):
            assert all(self._owns(one) for one in tree_leaves(args[1]) if one is not None), "an index on the CPU"
        found = func(*args, **kwargs)
        # Modules swap their parameters when they move, which torch refuses while the fakes' memory knows them.
        self._memo.clear()
        came = [self._owns(one) for one in given if isinstance(one, torch.Tensor) and (one.ndim or copies)]
        went = [self._owns(one) for one in tree_leaves(found) if isinstance(one, torch.Tensor)]
        if came and went and any(came) != any(went):
            self.log.append("down" if any(came) else "up")
        return found

    def _owns(self, value) -> bool:
        return isinstance(value, FakeTensor) and value.fake_device.type == self.kind


@contextmanager
def fake_device(kind: str):
    """Let tensors go to a device that is not there, and yield what is written down of that."""
    with (
        warnings.catch_warnings(),
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        FakeDevice(kind, mode) as device,
    ):
        # torch's own deepcopy does so.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield device
