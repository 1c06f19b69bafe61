"""Numbers as a part keeps them: exact, and half as big where that costs nothing.

Features are float32. A matrix whose every value is a bfloat16 number (a model that runs in
bf16 gives nothing else, save means) is kept as bfloat16: two bytes a number, the same bits
back. Any other is kept as float32. So nothing is ever rounded, and nobody has to choose.

bfloat16 is written as an HDF5 type of its own, which every HDF5 reader (h5py, h5dump,
MATLAB) understands as a number. Those convert value by value; `read` moves raw halves and
widens them at once, which is some hundred times faster.
"""

from __future__ import annotations

import h5py
import numpy as np
from h5py import h5s, h5t


def _bfloat16() -> h5t.TypeFloatID:
    """1 sign, 8 exponent, 7 mantissa bits, little endian: the upper half of a float32."""
    kind = h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    return kind


BFLOAT16 = _bfloat16()
FLOAT32 = h5t.IEEE_F32LE


def is_bfloat16(features_ND: np.ndarray) -> bool:
    """Whether float32 values lose nothing as bfloat16: their lower 16 bits are all zero."""
    bits_ND = features_ND.view(np.uint32)
    return not (bits_ND & np.uint32(0xFFFF)).any()


def write(group: h5py.Group, name: str, features_ND: np.ndarray) -> None:
    """Add one matrix, contiguous and without a time stamp: equal numbers give equal bytes."""
    features_ND = np.ascontiguousarray(features_ND, dtype="<f4")
    half = is_bfloat16(features_ND)
    kind = BFLOAT16 if half else FLOAT32
    stored_ND = (features_ND.view("<u4") >> np.uint32(16)).astype("<u2") if half else features_ND
    space = h5s.create_simple(features_ND.shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    dataset = h5py.h5d.create(group.id, name.encode(), kind, space, dcpl=properties)
    if features_ND.size:
        dataset.write(h5s.ALL, h5s.ALL, stored_ND, mtype=kind)


def read(dataset: h5py.Dataset, start: int, stop: int, out_ND: np.ndarray) -> None:
    """Rows [start, stop) into `out_ND`, a C-contiguous float32 array of that many rows."""
    if stop <= start:
        return
    kind = dataset.id.get_type()
    half = kind.equal(BFLOAT16)
    target_ND = np.empty(out_ND.shape, "<u2") if half else out_ND
    space = dataset.id.get_space()
    space.select_hyperslab((start, 0), target_ND.shape)
    dataset.id.read(h5s.create_simple(target_ND.shape), space, target_ND, mtype=kind if half else FLOAT32)
    if half:
        np.left_shift(target_ND, 16, out=out_ND.view(np.uint32), dtype=np.uint32)
