"""SavedModels that read and write whole volumes."""
