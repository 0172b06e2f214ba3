"""What a data set holds: cases, images, labels, splits; without TensorFlow."""
