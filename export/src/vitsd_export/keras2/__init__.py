"""Import of Keras 2 SavedModels of the public example."""
