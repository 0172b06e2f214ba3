"""tf.data: cached cases, sampled patches, batches."""
