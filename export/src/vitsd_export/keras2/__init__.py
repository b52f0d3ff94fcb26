"""Import of Keras 2 SavedModels of the public example."""

from vitsd_export.keras2.importer import ImportReport, import_saved_model

__all__ = ["ImportReport", "import_saved_model"]
