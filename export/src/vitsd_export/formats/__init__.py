"""From the inference graph to files: SavedModel, TFLite, ONNX."""
