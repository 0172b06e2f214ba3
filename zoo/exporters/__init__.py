"""A trained model for those without zoo: SavedModel, ONNX, OpenVINO, LiteRT, MONAI. TensorFlow is at home here."""
