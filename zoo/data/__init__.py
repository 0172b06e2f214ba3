"""Readers, samplers, caches and the tf.data pipeline."""
