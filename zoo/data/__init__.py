"""From files to batches: readers, checks, folds, caches, the patch sampler and the tf.data pipeline."""
