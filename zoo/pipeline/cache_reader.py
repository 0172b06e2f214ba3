"""Reads a cache in TensorFlow: looks up where arrays lie, and cuts windows from their bytes."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from zoo.pipeline import mapped_files
from zoo.pipeline.cache import Cache
from zoo.pipeline.cache_index import Block, Entry

Raw = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class Table:
    """Reads windows of the cases of a cache.

    Args:
        cache: in memory or on disk.
        portable: read shards with TensorFlow's ops alone, so that another process (tf.data service) can; else shards
            are mapped into memory, which copies less.
    """

    def __init__(self, cache: Cache, *, portable: bool = False) -> None:
        entries = cache.entries
        self._cache = cache
        self._buffer, self._bases = cache.buffer, np.zeros(len(entries), np.int64)
        if cache.buffer is None and not portable and mapped_files.POSSIBLE:
            self._buffer, self._bases = mapped_files.join([entry.file for entry in entries])
        self._files = tf.constant([entry.file for entry in entries])
        self._sizes = tf.constant([entry.num_bytes for entry in entries], tf.int64)
        self._shapes = np.array([entry.shape for entry in entries], np.int64)
        self._lines = np.array([[_line_numbers(line) for line in entry.lines] for entry in entries], np.float32)
        self._keep_zero = np.array([[line.keep_zero for line in entry.lines] for entry in entries])
        self._tabular = np.array([entry.tabular for entry in entries], np.float32)
        self._spans = _list_spans(entries, cache.counts.shape[1])
        self.num_channels = len(entries[0].channels)
        self.labelled = entries[0].labels is not None

    def shape(self, case: tf.Tensor) -> tf.Tensor:
        """Returns the voxels of a case along x, y, z: (3,) int64."""
        return tf.gather(self._shapes, case)

    def tabular(self, case: tf.Tensor) -> tf.Tensor:
        """Returns the conditioning vector of a case, float32; NaN where a value is missing."""
        return tf.gather(self._tabular, case)

    def voxel(self, case: tf.Tensor, label: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
        """Returns the remembered voxel number `rank` of a class in a case: (3,) int64."""
        at = tf.gather_nd(self._spans, tf.stack([case, label]))
        if self._cache.places is not None:
            flat = self._cache.places[at + rank]
        else:
            flat = self._decode(self._read(case, at + 4 * rank, tf.constant(4, tf.int64)), "int32")[0]
        shape = self.shape(case)
        flat = tf.cast(flat, tf.int64)
        return tf.stack([flat // (shape[1] * shape[2]), flat // shape[2] % shape[1], flat % shape[2]])

    def image(self, case: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Reads a window of all channels, intensities normalised: (*size, channels) float32."""
        channels = []
        for number in range(self.num_channels):
            raw = self._read_window(
                [entry.channels[number] for entry in self._cache.entries], case, start, size, tf.float32
            )
            channels.append(self._apply_line(raw, case, number))
        return tf.stack(channels, -1)

    def labels(self, case: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Reads a window of the class indices: (*size, 1) int32."""
        blocks = [entry.labels for entry in self._cache.entries if entry.labels]
        return self._read_window(blocks, case, start, size, tf.int32)[..., None]

    def _apply_line(self, raw: tf.Tensor, case: tf.Tensor, number: int) -> tf.Tensor:
        low, high, offset, scale = tf.unstack(tf.gather(self._lines[:, number], case))
        bounded = np.isfinite(self._lines[:, number, :2]).any()
        lined = ((tf.clip_by_value(raw, low, high) if bounded else raw) - offset) * scale
        if not self._keep_zero[:, number].any():
            return lined
        keep_zero = tf.gather(self._keep_zero[:, number], case)
        return tf.where(tf.logical_and(keep_zero, raw == 0), 0.0, lined)

    def _read_window(
        self, blocks: Sequence[Block], case: tf.Tensor, start: tf.Tensor, size: tf.Tensor, dtype: tf.DType
    ) -> tf.Tensor:
        """Reads the adjacent planes that a window needs, and cuts the rest off."""
        names = sorted({block.dtype for block in blocks})
        kinds = np.array([names.index(block.dtype) for block in blocks], np.int32)
        begins = np.array([block.at for block in blocks], np.int64)

        def cut(name: str) -> tf.Tensor:
            plane = tf.reduce_prod(self.shape(case)[1:])
            width = np.dtype(name).itemsize
            raw = self._read(case, tf.gather(begins, case) + start[0] * plane * width, size[0] * plane * width)
            planes = tf.reshape(self._decode(raw, name), tf.concat([size[:1], self.shape(case)[1:]], 0))
            window = tf.slice(planes, tf.concat([[tf.constant(0, tf.int64)], start[1:]], 0), size)
            return tf.cast(window, dtype)

        if len(names) == 1:
            return cut(names[0])
        branches = [lambda name=name: cut(name) for name in names]
        return tf.switch_case(tf.gather(kinds, case), branches)

    def _read(self, case: tf.Tensor, at: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """Reads bytes of a case: a slice of memory, or a string from that place of the shard alone."""
        if self._buffer is not None:
            return tf.slice(self._buffer, [tf.gather(self._bases, case) + at], [length])
        rest = tf.gather(self._sizes, case) - at - length
        file = tf.gather(self._files, case)
        return tf.data.FixedLengthRecordDataset(file, length, at, rest).get_single_element()

    def _decode(self, raw: tf.Tensor, name: str) -> tf.Tensor:
        dtype = tf.as_dtype(name)
        if raw.dtype == tf.string:
            return tf.io.decode_raw(raw, dtype)
        return raw if dtype == tf.uint8 else tf.bitcast(tf.reshape(raw, [-1, dtype.size]), dtype)


def _line_numbers(line: object) -> list[float]:
    return [getattr(line, name) for name in ("low", "high", "offset", "scale")]


def _list_spans(entries: Sequence[Entry], num_classes: int) -> np.ndarray:
    spans = np.zeros((len(entries), max(num_classes, 1)), np.int64)
    for row, entry in zip(spans, entries, strict=True):
        for index, (at, _) in entry.places.items():
            row[index] = at
    return spans
