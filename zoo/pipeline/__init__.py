"""Caches cases, samples patches and makes batches, with tf.data."""
