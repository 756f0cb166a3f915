"""Task types: declaration, registry, and types that the configuration alone declares."""
